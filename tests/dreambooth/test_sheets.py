"""Many images on one sheet: all of them are there, large enough to be seen, each line under what it shows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from turbo_fetch.dreambooth.data.images import LABEL_HEIGHT, SMALLEST, WIDEST, cells, grid


@given(
    size=st.tuples(st.integers(1, 2048), st.integers(1, 2048)),
    longest=st.integers(1, 500),
    gap=st.integers(0, 8),
)
def test_a_sheet_is_not_too_wide_and_its_images_not_too_small(
    size: tuple[int, int], longest: int, gap: int
) -> None:
    (width, height), columns = cells(size, longest, gap)
    assert columns * (width + gap) - gap <= max(WIDEST, width)
    assert min(size[0], SMALLEST) - 1 <= width <= size[0]
    assert abs(height - size[1] * width / size[0]) <= 1 + size[1] / size[0]
    if columns < longest:
        assert width <= SMALLEST


def test_lines_that_are_too_long_go_on_below() -> None:
    images = [Image.new("RGB", (256, 256), (number, 255 - number, 7)) for number in range(100)]
    sheet = grid([images[:70], images[70:]], ["a " * 3000, "short"])
    assert sheet.width <= WIDEST
    seen = {tuple(colour) for colour in np.asarray(sheet).reshape(-1, 3)[::7].tolist()}
    assert {(number, 255 - number, 7) for number in range(100)} <= seen


def test_a_label_is_as_large_as_its_images_ask_for() -> None:
    for side in (64, 1024):
        image = Image.new("RGB", (side, side), "white")
        sheet = grid([[image] * 3], ["a photo"])
        height = sheet.height - side
        assert height == max(LABEL_HEIGHT, side // 8)
        dark = np.asarray(sheet.convert("L"))[:height] < 128
        assert dark.any(axis=1).sum() > height // 4
