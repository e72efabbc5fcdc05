"""Images of several sizes from one decode: each is what a run with its size alone makes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from album import encoded as album_image
from sample_images import encoded, scene
from turbo_fetch.arrow.schemas import transformed_schema
from turbo_fetch.outcomes import Outcome
from turbo_fetch.shard.transform import PART_BYTES, Boxes, Transform
from turbo_fetch.spec import ImageSpec

LOSSLESS: dict[str, Any] = {"encode": "png", "quality": 1}
NARROW = (64, 24)
SCENE = scene(400, 300)


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(SCENE, "JPEG", quality=95, exif=exif.tobytes())


BODIES = {
    "png": encoded(SCENE, "PNG"),
    "grey": encoded(SCENE.convert("L"), "PNG"),
    "alpha": encoded(SCENE.convert("RGBA"), "PNG"),
    "gif": encoded(SCENE, "GIF"),
    "tiff": encoded(SCENE, "TIFF"),
    "bmp": encoded(SCENE, "BMP"),
    "webp": encoded(SCENE, "WEBP", lossless=True),
    "jpeg": encoded(SCENE, "JPEG", quality=95),
    "progressive": encoded(SCENE, "JPEG", quality=95, progressive=True),
    "cmyk": encoded(SCENE.convert("CMYK"), "JPEG", quality=95),
    "turned": _turned(),
}
JPEGS = {"jpeg", "progressive", "cmyk", "turned"}


def _made(body: bytes, boxes: Boxes = (), crop: bool = False, **options: Any) -> dict[str, Any]:
    transform = Transform(ImageSpec(**options), 1, crop=crop)
    record: dict[str, Any] = transform.run([body], [boxes] if boxes else []).to_pylist()[0]
    assert record["outcome"] == 0, record["detail"]
    return record


def _sized(record: dict[str, Any], name: str) -> tuple[bytes, int, int]:
    """Return an image of a further size, and its sides."""
    return record[f"image_{name}"], record[f"width_{name}"], record[f"height_{name}"]


def _main(record: dict[str, Any]) -> tuple[bytes, int, int]:
    return record["image"], record["width"], record["height"]


def _difference(left: bytes, right: bytes) -> float:
    pixels = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB"), np.float64) for each in (left, right)]
    assert pixels[0].shape == pixels[1].shape
    return float(np.abs(pixels[0] - pixels[1]).mean())


@pytest.mark.parametrize("mode", ["border", "keep_ratio", "keep_ratio_largest", "center_crop", "stretch"])
@pytest.mark.parametrize("kind", BODIES)
def test_every_size_is_what_a_run_with_that_size_alone_makes(kind: str, mode: str) -> None:
    options = {**LOSSLESS, "mode": mode}
    record = _made(BODIES[kind], size=128, more_sizes=(NARROW, 32, 500), **options)
    for size, name in ((128, None), (NARROW, "64x24"), (32, "32"), (500, "500")):
        alone = _main(_made(BODIES[kind], size=size, **options))
        found = _main(record) if name is None else _sized(record, name)
        assert found[1:] == alone[1:]
        if kind in JPEGS:
            # The largest size decides how far the decoder reduces the image.
            assert _difference(found[0], alone[0]) < 0.5
        else:
            assert found[0] == alone[0]


@pytest.mark.parametrize("kind", BODIES)
def test_the_largest_size_has_the_bytes_of_a_run_of_its_own(kind: str) -> None:
    for encode, quality in (("jpg", 90), ("webp", 80), ("png", 6)):
        options: dict[str, Any] = {"encode": encode, "quality": quality, "phash": kind == "jpeg"}
        several = _made(BODIES[kind], size=200, more_sizes=(100, 50), **options)
        alone = _made(BODIES[kind], size=200, **options)
        assert {name: several[name] for name in alone} == alone
        raised = _made(BODIES[kind], size=100, more_sizes=(200,), **options)
        assert _sized(raised, "200") == _main(alone)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.lists(
        st.integers(1, 120) | st.tuples(st.integers(1, 120), st.integers(1, 120)), min_size=2, max_size=4
    ),
    st.sampled_from(["border", "keep_ratio", "keep_ratio_largest", "center_crop", "stretch"]),
    st.booleans(),
)
def test_any_sizes_follow_the_rules_of_one_size(
    source: tuple[int, int], sizes: list[Any], mode: Any, only_if_bigger: bool
) -> None:
    body, options = (
        album_image(*source, 1, "PNG"),
        {**LOSSLESS, "mode": mode, "only_if_bigger": only_if_bigger},
    )
    boxes = [(size, size) if isinstance(size, int) else size for size in sizes]
    if len(set(boxes)) < len(boxes):
        with pytest.raises(ValidationError, match="all different"):
            ImageSpec(size=sizes[0], more_sizes=tuple(sizes[1:]))
        return
    record = _made(body, size=sizes[0], more_sizes=tuple(sizes[1:]), **options)
    names = ImageSpec(size=sizes[0], more_sizes=tuple(sizes[1:])).more_boxes
    for size, name in zip(sizes[1:], names, strict=True):
        assert _sized(record, name) == _main(_made(body, size=size, **options))
    assert _main(record) == _main(_made(body, size=sizes[0], **options))


def test_a_body_is_kept_in_the_sizes_that_it_has_already() -> None:
    body = encoded(scene(100, 100), "JPEG", quality=80)
    options: dict[str, Any] = {"only_if_bigger": True, "skip_reencode": True, "encode": "jpg"}
    record = _made(body, size=512, more_sizes=(256, 50), **options)
    assert _main(record) == _sized(record, "256") == (body, 100, 100)
    assert record["image_50"] != body
    assert Image.open(io.BytesIO(record["image_50"])).size == (50, 50) == _sized(record, "50")[1:]


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("kind", ["png", "jpeg", "turned"])
def test_boxes_are_cropped_or_blurred_in_every_size(kind: str, crop: bool) -> None:
    boxes = [(0.1, 0.2, 0.6, 0.9)]
    record = _made(BODIES[kind], boxes, crop, size=128, more_sizes=(64,), **LOSSLESS)
    for size, found in ((128, _main(record)), (64, _sized(record, "64"))):
        assert found == _main(_made(BODIES[kind], boxes, crop, size=size, **LOSSLESS))


def test_an_image_that_fails_has_none_in_any_size() -> None:
    bodies = [BODIES["jpeg"], BODIES["jpeg"][:3000], b"<html>", BODIES["tiff"]]
    batch = Transform(ImageSpec(size=64, more_sizes=(32,)), 2).run(bodies)
    assert batch.schema.equals(transformed_schema(["32"]))
    good = [outcome == Outcome.SUCCESS.number for outcome in batch["outcome"].to_pylist()]
    assert good == [True, False, False, True]
    for name in ("image", "image_32", "width_32", "height_32"):
        assert batch[name].is_valid().to_pylist() == good


def test_parts_are_cut_by_the_bytes_of_all_sizes() -> None:
    """Small bodies become files of tens of megabytes, and no part holds many of these."""
    bodies = [encoded(Image.new("RGB", (8, 8), (number, 0, 0)), "TIFF") for number in range(4)]
    spec = ImageSpec(size=64, more_sizes=(2500, 2501), encode="png", quality=0, upscale="nearest")
    parts = list(Transform(spec, 1).parts(bodies))
    assert sorted(place for places, _ in parts for place in places) == [0, 1, 2, 3]
    one = sum(len(parts[0][1][name][0].as_py()) for name in ("image", "image_2500", "image_2501"))
    assert max(len(places) for places, _ in parts) <= PART_BYTES // one + 1 < len(bodies)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"more_sizes": (64,), "encode": "original"}, 'encode = "original" keeps the bytes'),
        ({"more_sizes": (64,), "mode": "no"}, 'mode = "no" resizes nothing'),
        ({"more_sizes": (64, 256)}, "all different"),
        ({"more_sizes": (64, (64, 64))}, "all different"),
        ({"more_sizes": (0,)}, "greater than 0"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ImageSpec(**options)
