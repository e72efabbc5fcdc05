"""A JPEG that becomes a JPEG is never RGB on the way; what comes out is what Pillow makes of it through RGB."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sample_images import difference, encoded, scene, transformed

WHITE = (255, 255, 255)
SIDES = [(600, 400), (601, 399), (333, 517), (150, 149), (97, 61), (40, 31)]


def made(body: bytes, **options: Any) -> Image.Image:
    record = transformed(body, encode="jpg", quality=100, **options)
    assert record["outcome"] == 0, record["detail"]
    return Image.open(io.BytesIO(record["image"]))


def encoded_by_pillow(image: Image.Image) -> Image.Image:
    """Return the image as it looks after Pillow wrote it at the same quality, with chroma at half the size."""
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=100, subsampling=2))).convert("RGB")


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_sides_are_kept_to_the_pixel(sides: tuple[int, int], subsampling: int, progressive: bool) -> None:
    source = scene(*sides)
    body = encoded(source, "JPEG", quality=100, subsampling=subsampling, progressive=progressive)
    for size in (64, 65):
        found = made(body, mode="keep_ratio_largest", size=size)
        expected = encoded_by_pillow(source.resize(found.size, Image.Resampling.LANCZOS))
        assert difference(found, expected) < 1.2


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("canvas", [(64, 64), (65, 80), (90, 71)])
def test_a_border_is_white_up_to_the_pixel_where_the_image_begins(
    sides: tuple[int, int], canvas: tuple[int, int]
) -> None:
    source = scene(*sides)
    found = made(encoded(source, "JPEG", quality=100), mode="border", size=canvas)
    inner = made(encoded(source, "JPEG", quality=100), mode="keep_ratio_largest", size=canvas).size
    left, top = (canvas[0] - inner[0]) // 2, (canvas[1] - inner[1]) // 2
    whole = Image.new("RGB", canvas, WHITE)
    whole.paste(source.resize(inner, Image.Resampling.LANCZOS), (left, top))
    assert difference(found, encoded_by_pillow(whole)) < 1.5
    # Away from the blocks that the image touches, white is white.
    touched = np.zeros(canvas[::-1], bool)
    touched[max(top - 16, 0) : top + inner[1] + 16, max(left - 16, 0) : left + inner[0] + 16] = True
    assert (np.asarray(found)[~touched] == 255).all()


@pytest.mark.parametrize("sides", [(1, 1), (2, 1), (3, 200), (200, 3), (400, 1)])
@pytest.mark.parametrize("mode", ["border", "keep_ratio_largest", "stretch"])
def test_slivers_are_images_too(sides: tuple[int, int], mode: str) -> None:
    source = Image.new("RGB", sides, (200, 60, 30))
    found = np.asarray(made(encoded(source, "JPEG", quality=100), mode=mode, size=33))
    middle = found[found.shape[0] // 2, found.shape[1] // 2].astype(int)
    if min(sides) * 33 >= 2 * max(sides):
        assert abs(middle - (200, 60, 30)).max() < 12


def test_saturated_colours_stay_within_their_range() -> None:
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, :100] = (255, 0, 0)
    stripes[:, 100:] = (0, 0, 255)
    source = Image.fromarray(stripes)
    found = made(encoded(source, "JPEG", quality=95), mode="stretch", size=50)
    expected = encoded_by_pillow(source.resize((50, 50), Image.Resampling.LANCZOS))
    assert difference(found, expected) < 3.0
