"""Modes, encodings, limits, and the shape of what comes back."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sample_images import difference, encoded, pixels, scene, spec, transformed
from turbo_fetch.arrow.schemas import TRANSFORMED
from turbo_fetch.outcomes import BY_NUMBER, Outcome
from turbo_fetch.shard.transform import Transform

WIDE = scene(600, 400)


def resampled(
    picture: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Any:
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, box))


def test_the_schema_is_the_contract() -> None:
    batch = Transform(spec(), 1).run([encoded(WIDE, "PNG"), b""])
    assert batch.schema.equals(TRANSFORMED)
    assert Transform(spec(), 1).run([]).schema.equals(TRANSFORMED)


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("no", 256, (600, 400)),
        ("border", 256, (256, 256)),
        ("keep_ratio", 256, (384, 256)),
        ("keep_ratio_largest", 256, (256, 171)),
        ("center_crop", 256, (256, 256)),
        ("stretch", 256, (256, 256)),
        ("border", (300, 100), (300, 100)),
        ("keep_ratio", (300, 100), (300, 200)),
        ("keep_ratio_largest", (300, 100), (150, 100)),
        ("center_crop", (300, 100), (300, 100)),
        ("stretch", (300, 100), (300, 100)),
    ],
)
def test_a_mode_gives_its_sides(mode: str, size: Any, expected: tuple[int, int]) -> None:
    record = transformed(encoded(WIDE, "PNG"), mode=mode, size=size)
    assert (record["width"], record["height"]) == expected
    assert Image.open(io.BytesIO(record["image"])).size == expected
    assert (record["original_width"], record["original_height"]) == (600, 400)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_stretch_resamples_the_whole_image(kind: str) -> None:
    body = encoded(WIDE, kind, quality=100)
    assert difference(pixels(body, mode="stretch", size=128), resampled(WIDE, (128, 128))) < 1.0


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_center_crop_shows_the_middle(kind: str) -> None:
    expected = resampled(WIDE, (128, 128), (100, 0, 500, 400))
    assert difference(pixels(encoded(WIDE, kind, quality=100), mode="center_crop", size=128), expected) < 1.0


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_border_pads_white_above_and_below(kind: str) -> None:
    made = pixels(encoded(WIDE, kind, quality=100), mode="border", size=96)
    assert (made[:16] == 255).all()
    assert (made[80:] == 255).all()
    assert difference(made[16:80], resampled(WIDE, (96, 64))) < 1.0


def test_keep_ratio_enlarges_small_images() -> None:
    small = scene(60, 40)
    assert (
        difference(pixels(encoded(small, "PNG"), mode="keep_ratio", size=80), resampled(small, (120, 80)))
        < 1.0
    )


@pytest.mark.parametrize("mode", ["border", "keep_ratio", "keep_ratio_largest", "center_crop", "stretch"])
def test_only_if_bigger_leaves_small_images_as_they_are(mode: str) -> None:
    small = scene(60, 40)
    assert difference(pixels(encoded(small, "PNG"), mode=mode, size=80, only_if_bigger=True), small) == 0


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("border", (80, 80)),
        ("keep_ratio_largest", (53, 80)),
        ("keep_ratio", (80, 120)),
        ("center_crop", (80, 120)),
    ],
)
def test_only_if_bigger_compares_the_side_of_the_mode(mode: str, shape: tuple[int, int]) -> None:
    made = pixels(encoded(scene(120, 80), "PNG"), mode=mode, size=80, only_if_bigger=True)
    assert made.shape[:2] == shape


@pytest.mark.parametrize("chosen", ["nearest", "linear", "cubic", "area", "lanczos"])
def test_a_filter_is_the_one_asked_for(chosen: str) -> None:
    noise = Image.fromarray(np.random.default_rng(7).integers(0, 256, (240, 360, 3), np.uint8))
    made = pixels(encoded(noise, "PNG"), mode="stretch", size=(90, 60), downscale=chosen)
    pillow = {
        "nearest": Image.Resampling.NEAREST,
        "linear": Image.Resampling.BILINEAR,
        "cubic": Image.Resampling.BICUBIC,
        "area": Image.Resampling.BOX,
        "lanczos": Image.Resampling.LANCZOS,
    }
    differences = {name: difference(made, noise.resize((90, 60), code)) for name, code in pillow.items()}
    assert min(differences, key=differences.__getitem__) == chosen
    assert differences[chosen] < 1.0


@pytest.mark.parametrize("encode", ["jpg", "webp"])
def test_quality_trades_bytes_for_likeness(encode: str) -> None:
    body = encoded(WIDE, "PNG")
    fine = transformed(body, encode=encode, quality=95)
    coarse = transformed(body, encode=encode, quality=20)
    assert len(coarse["image"]) < len(fine["image"])
    assert difference(Image.open(io.BytesIO(fine["image"])), WIDE) < 2.0


def test_webp_of_quality_100_is_lossless() -> None:
    assert difference(pixels(encoded(WIDE, "PNG"), encode="webp", quality=100), WIDE) == 0


def test_jpg_is_written_with_chroma_at_half_size() -> None:
    record = transformed(encoded(WIDE, "PNG"), encode="jpg", quality=95)
    layers = Image.open(io.BytesIO(record["image"])).layer  # type: ignore[attr-defined]
    assert [layer[1:3] for layer in layers] == [(2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("encode", ["jpg", "png"])
def test_grey_stays_one_channel(kind: str, encode: str) -> None:
    body = encoded(WIDE.convert("L"), kind)
    assert pixels(body, encode=encode, quality=9, mode="border", size=64).shape == (64, 64)


def test_original_keeps_the_bytes_and_the_stored_sides() -> None:
    body = encoded(
        WIDE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    )
    record = transformed(body, encode="original", mode="center_crop", size=64)
    assert record["image"] == body
    assert (record["width"], record["height"]) == (600, 400)


@pytest.mark.parametrize(("size", "kept"), [(700, True), (300, False)])
def test_skip_reencode_keeps_the_bytes_only_where_nothing_changes(size: int, kept: bool) -> None:
    body = encoded(WIDE, "JPEG")
    options: dict[str, Any] = {"encode": "jpg", "quality": 90, "skip_reencode": True, "only_if_bigger": True}
    record = transformed(body, mode="keep_ratio_largest", size=size, **options)
    assert (record["image"] == body) is kept


def test_skip_reencode_does_not_keep_another_format() -> None:
    body = encoded(WIDE, "PNG")
    assert transformed(body, encode="jpg", quality=90, skip_reencode=True)["image"][:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        ({"min_side": 400}, Outcome.SUCCESS),
        ({"min_side": 401}, Outcome.TOO_SMALL),
        ({"max_pixels": 240_000}, Outcome.SUCCESS),
        ({"max_pixels": 239_999}, Outcome.TOO_MANY_PIXELS),
        ({"max_aspect": 1.5}, Outcome.SUCCESS),
        ({"max_aspect": 1.49}, Outcome.ASPECT),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF"])
def test_limits_are_checked_for_every_format(kind: str, limits: dict[str, Any], outcome: Outcome) -> None:
    record = transformed(encoded(WIDE, kind), **limits)
    assert BY_NUMBER[record["outcome"]] is outcome
    assert (record["original_width"], record["original_height"]) == (600, 400)
    assert (record["image"] is None) == (outcome is not Outcome.SUCCESS)


@pytest.mark.parametrize("digest", ["md5", "sha256", "sha512"])
def test_the_digest_is_over_the_original_bytes(digest: str) -> None:
    body = encoded(WIDE, "BMP")
    assert transformed(body, digest=digest)["digest"] == hashlib.new(digest, body).hexdigest()
    assert transformed(b"<html>", digest=digest)["digest"] == hashlib.new(digest, b"<html>").hexdigest()
    assert transformed(body, digest="none")["digest"] is None


def test_results_do_not_depend_on_batches_or_threads() -> None:
    kinds = ["JPEG", "PNG", "WEBP", "GIF", "TIFF"]
    bodies = [encoded(scene(90 + 7 * index, 70 + 3 * index), kinds[index % 5]) for index in range(40)]
    bodies[7:7] = [b"", b"<svg/>", bodies[0][:300]]
    options = spec(mode="border", size=64, encode="jpg", quality=95)
    whole = Transform(options, 2).run(bodies)
    single = Transform(options, 1)
    parts = [single.run(bodies[start : start + 9]) for start in range(0, len(bodies), 9)]
    assert pa.Table.from_batches([whole]).equals(pa.Table.from_batches(parts))


def test_an_unknown_choice_is_refused_by_name() -> None:
    options = spec().model_copy(update={"mode": "squash"})
    with pytest.raises(ValueError, match=r"mode is \"squash\", expected one of no, border"):
        Transform(options, 1)
