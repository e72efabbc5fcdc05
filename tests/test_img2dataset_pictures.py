"""The drop-in's images beside img2dataset's: every mode, filter and format, on images of many kinds and sizes."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from PIL import Image

from album import pixels
from peer import run_peer
from turbo_fetch.img2dataset.translation import translate
from turbo_fetch.shard.transform import Transform

SIDE = 64
MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
FILTERS = ("nearest", "linear", "cubic", "area", "lanczos")
FORMATS = {"jpg": 95, "png": 6, "webp": 90}
LEAST_PSNR = {"nearest": 21, "linear": 33, "cubic": 35, "area": 37, "lanczos": 34}
"""In dB. OpenCV's `nearest` looks up to half a pixel to the left of where ours looks; its other filters, `area`
excepted, skip pixels where ours average, which matters little on these smooth images. Chroma of JPEG and of lossy WebP
is resampled once here, and averaged once more by the peer's encoder."""

SETS: list[dict[str, Any]] = [
    {
        "image_size": SIDE,
        "resize_mode": mode,
        "resize_only_if_bigger": only_if_bigger,
        "upscale_interpolation": interpolation,
        "downscale_interpolation": interpolation,
        "encode_format": encoding,
        "encode_quality": quality,
    }
    for mode, only_if_bigger, interpolation, (encoding, quality) in product(
        MODES, (False, True), FILTERS, FORMATS.items()
    )
]
LIMITS: list[dict[str, Any]] = [
    {"min_image_size": 64},
    {"max_image_area": 12_000},
    {"max_aspect_ratio": 2.0},
    {"min_image_size": 90, "max_image_area": 20_000, "max_aspect_ratio": 1.5},
    {"resize_mode": "no", "skip_reencode": True, "encode_format": "png", "encode_quality": 3},
    {"resize_mode": "no", "skip_reencode": True, "encode_format": "jpg"},
    {"resize_only_if_bigger": True, "skip_reencode": True, "image_size": 256},
    {"upscale_interpolation": "LANCZOS4", "downscale_interpolation": "Bicubic", "image_size": 96},
]


def _picture(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(pixels(width, height, seed))


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _bodies() -> dict[str, bytes]:
    translucent = _picture(150, 170, 7)
    translucent.putalpha(_picture(150, 170, 8).convert("L"))
    return {
        "bigger.jpg": _encoded(_picture(300, 200, 1), "JPEG", quality=92),
        "smaller.png": _encoded(_picture(40, 30, 2), "PNG"),
        "tall.webp": _encoded(_picture(100, 310, 3), "WEBP", quality=90),
        "one-side-bigger.jpg": _encoded(_picture(100, 50, 4), "JPEG", quality=92),
        "grey.jpg": _encoded(_picture(180, 120, 5).convert("L"), "JPEG", quality=92),
        "of-the-size.png": _encoded(_picture(SIDE, SIDE, 6), "PNG"),
        "alpha.png": _encoded(translucent, "PNG"),
        "palette.png": _encoded(_picture(90, 90, 9).quantize(64), "PNG"),
        "html.jpg": b"<html><body>not found</body></html>",
        "empty.jpg": b"",
        "cut.png": _encoded(_picture(50, 50, 10), "PNG")[:20],
    }


BODIES = _bodies()


class Pair(NamedTuple):
    """What both tools make of one body; sides are width, height, original width and height."""

    name: str
    ours: dict[str, Any]
    theirs: tuple[bytes | None, int | None, int | None, int | None, int | None, str | None]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[list[Pair]]:
    """What both tools make of every body, by set of options, in the order of SETS and LIMITS."""
    folder: Path = tmp_path_factory.mktemp("peer")
    for name, body in BODIES.items():
        (folder / name).write_bytes(body)
    paths = [str(folder / name) for name in BODIES]
    answers = run_peer([{"resize": _complete(options), "bodies": paths} for options in SETS + LIMITS], folder)
    return [_pairs(options, theirs) for options, theirs in zip(SETS + LIMITS, answers, strict=True)]


def _complete(options: dict[str, Any]) -> dict[str, Any]:
    return {"image_size": 256, "resize_mode": "border", "resize_only_if_bigger": False, **options}


def _pairs(options: dict[str, Any], theirs: list[Any]) -> list[Pair]:
    image = translate({"url_list": "list.txt", **options}).spec.fetch
    assert image is not None
    ours = Transform(image.image, 1).run(list(BODIES.values())).to_pylist()
    return [Pair(*each) for each in zip(BODIES, ours, theirs, strict=True)]


@pytest.mark.parametrize(
    "number", range(len(SETS)), ids=lambda number: "-".join(map(str, SETS[number].values()))
)
def test_images_have_the_same_sides_and_nearly_the_same_pixels(pairs: list[list[Pair]], number: int) -> None:
    options = SETS[number]
    for name, ours, (image, *sides, error) in pairs[number]:
        if error is not None:
            assert ours["image"] is None, name
            continue
        assert [ours[side] for side in ("width", "height", "original_width", "original_height")] == sides, (
            name
        )
        assert _format(ours["image"]) == _format(cast(bytes, image))
        least = 60 if options["resize_mode"] == "no" else LEAST_PSNR[options["downscale_interpolation"]]
        assert _psnr(ours["image"], cast(bytes, image)) >= least, name


@pytest.mark.parametrize("number", range(len(LIMITS)), ids=lambda number: "-".join(LIMITS[number]))
def test_the_same_images_are_turned_away_in_the_same_words(pairs: list[list[Pair]], number: int) -> None:
    for name, ours, (image, *_, error) in pairs[len(SETS) + number]:
        assert (ours["image"] is None) == (image is None), name
        if error is not None and name not in {"html.jpg", "empty.jpg", "cut.png"}:
            assert ours["detail"] == error, name
        if image is not None:
            assert _psnr(ours["image"], image) >= 35, name


@pytest.mark.parametrize("number", [4, 5])
def test_bytes_are_kept_where_nothing_is_to_be_done(pairs: list[list[Pair]], number: int) -> None:
    kept = [name for name, ours, _ in pairs[len(SETS) + number] if ours["image"] == BODIES[name]]
    assert kept == [name for name, _, theirs in pairs[len(SETS) + number] if theirs[0] == BODIES[name]]
    assert kept


def _opened(body: bytes) -> Image.Image:
    return Image.open(io.BytesIO(body))


def _format(body: bytes) -> tuple[str | None, str]:
    picture = _opened(body)
    return picture.format, picture.mode


def _psnr(left: bytes, right: bytes) -> float:
    """Return the peak signal-to-noise ratio of two images of equal shape in dB, at most 99."""
    one, other = (np.asarray(_opened(body), np.float64) for body in (left, right))
    assert one.shape == other.shape
    error = float(np.mean((one - other) ** 2))
    return min(99.0, 10 * np.log10(255**2 / error)) if error else 99.0
