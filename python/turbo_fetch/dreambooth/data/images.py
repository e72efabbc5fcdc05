"""Images on disk: opened with their masks, cut to size; and many on one sheet."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from turbo_fetch.dreambooth.data.decoding import Decoded, Size, Undecodable, decode, decode_mask

LABEL_HEIGHT: Final = 16
"""In pixels, on a sheet of small images."""
WIDEST: Final = 4096
"""Pixels of a sheet from left to right: the images of longer lines are made smaller."""
SMALLEST: Final = 192
"""Side in pixels below which they are not made smaller; then a line goes on below."""


class Unreadable(Exception):
    """A file is not an image, or a broken one; the message says which and why."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image that was opened once without fault. `size` is of the upright image."""

    path: Path
    size: Size
    digest: str
    """Of the bytes of the image and of its mask, and of what is done to them beyond decoding."""
    caption: str | None = None
    mask: Path | None = None
    notes: tuple[str, ...] = ()
    """What was done to it beyond decoding, each a part of a sentence."""


def inspect(path: Path, caption: str | None = None, mask: Path | None = None) -> ImageFile:
    """Open an image and its mask, all of it. Raises Unreadable, MissingExtra."""
    content = _content(path)
    opened = _opened(path, content)
    # What is read otherwise than its bytes say is told apart from the same bytes read plainly.
    told = "".join(opened.notes).encode()
    if mask is None:
        digest = hashlib.sha256(content + told).hexdigest()
        return ImageFile(path, opened.size, digest, caption, notes=opened.notes)
    weights = _content(mask)
    seen = _opened(mask, weights, is_mask=True)
    if seen.size != opened.size:
        raise Unreadable(
            f"{mask}: {_times(seen.size)} pixels; expected {_times(opened.size)}, as the image has"
        )
    digest = hashlib.sha256(content + weights + told).hexdigest()
    black = () if seen.image.getextrema()[1] else ("with a mask that is black all over",)
    return ImageFile(path, opened.size, digest, caption, mask, (*opened.notes, *black))


def open_upright(path: Path) -> Image.Image:
    """Return the first frame, RGB in sRGB, turned as EXIF says, what is transparent on white. Raises Unreadable."""
    return _opened(path, _content(path)).image


def render(path: Path, window: Cut, flip: bool, is_mask: bool = False) -> NDArray[np.uint8]:
    """Return the window of an image at its target size, [H, W, 3], or [H, W] of a mask. Raises Unreadable."""
    opened = _opened(path, _content(path), is_mask)
    scale = opened.image.width / opened.size[0], opened.image.height / opened.size[1]
    left, top, right, bottom = window.box
    # Rounding must not bring the window beyond the edge of an image that is smaller than its file says.
    box = (
        left * scale[0],
        top * scale[1],
        min(right * scale[0], opened.image.width),
        min(bottom * scale[1], opened.image.height),
    )
    image = opened.image.resize(window.target, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    return np.asarray(ImageOps.mirror(image) if flip else image)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error


def _opened(path: Path, content: bytes, is_mask: bool = False) -> Decoded:
    try:
        return decode_mask(content) if is_mask else decode(content)
    except Undecodable as error:
        raise Unreadable(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Cut:
    """A window of an image, in its own pixels, and the size that the window becomes."""

    left: float
    top: float
    width: float
    height: float
    target: Size

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels of the image."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def conditioning(self, original: Size) -> tuple[float, ...]:
        """Return the six numbers of size conditioning (arXiv 2307.01952, section 2.2), in pixels.

        Original height and width; top and left of the cut in the resized image; height and width of the target.
        """
        scale = self.target[0] / self.width
        width, height = original
        return (
            height,
            width,
            round(self.top * scale),
            round(self.left * scale),
            self.target[1],
            self.target[0],
        )


def cut(original: Size, target: Size, across: float = 0.5, down: float = 0.5) -> Cut:
    """Return the largest window of the shape of `target`; `across` and `down` in 0..1 say where it lies."""
    width, height = original
    scale = min(width / target[0], height / target[1])
    window = (target[0] * scale, target[1] * scale)
    return Cut((width - window[0]) * across, (height - window[1]) * down, *window, target)


def mirrored(window: Cut, original: Size) -> Cut:
    """Return where the window lies in the mirror image."""
    return Cut(
        original[0] - window.left - window.width, window.top, window.width, window.height, window.target
    )


def buckets(resolution: int, multiple: int, max_aspect: float) -> tuple[Size, ...]:
    """Return the sizes of about `resolution` squared pixels, squarest first, with sides that are multiples.

    No size has more pixels than the square, so that none needs more memory.
    """
    area, sizes = resolution * resolution, set()
    for side in range(multiple, int(resolution * math.sqrt(max_aspect)) + 1, multiple):
        other = area // side // multiple * multiple
        if other and max(side, other) / min(side, other) <= max_aspect:
            sizes |= {(side, other), (other, side)}
    sizes.add((resolution, resolution))
    return tuple(sorted(sizes, key=lambda size: (abs(math.log(size[0] / size[1])), size)))


def nearest(original: Size, sizes: Sequence[Size]) -> Size:
    """Return the size whose shape is nearest to that of an image; the larger one of equals."""
    shape = math.log(original[0] / original[1])
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - shape), -size[0] * size[1]))


def grid(
    images: Sequence[Sequence[Image.Image]],
    labels: Sequence[str] = (),
    side: int | None = None,
    gap: int = 4,
) -> Image.Image:
    """Return the images on one sheet, line by line, each line under its label if there are any.

    All get the size of the first one, or fit `side` pixels square, or less where a line would be wider than WIDEST;
    small ones are enlarged without smoothing.
    """
    cell, columns = cells((side, side) if side else images[0][0].size, max(map(len, images)), gap)
    width = columns * (cell[0] + gap) - gap
    height = max(LABEL_HEIGHT, min(cell) // 8)
    font = ImageFont.load_default(height * 3 // 4)
    texts = [_wrapped(label, width, font) for label in labels] or [[] for _ in images]
    rows = [-(-len(line) // columns) for line in images]
    total = sum(len(text) * height + count * (cell[1] + gap) for text, count in zip(texts, rows, strict=True))
    sheet = Image.new("RGB", (width, total - gap), "white")
    pen, y = ImageDraw.Draw(sheet), 0
    for line, text, count in zip(images, texts, rows, strict=True):
        for part in text:
            pen.text((2, y + height // 8), part, fill="black", font=font)
            y += height
        for number, image in enumerate(line):
            smooth = Image.Resampling.NEAREST if image.width < cell[0] else Image.Resampling.LANCZOS
            row, column = divmod(number, columns)
            place = (column * (cell[0] + gap), y + row * (cell[1] + gap))
            sheet.paste(image.convert("RGB").resize(cell, smooth), place)
        y += count * (cell[1] + gap)
    return sheet


def cells(size: Size, longest: int, gap: int) -> tuple[Size, int]:
    """Return the size of each image on a sheet, and how many are beside each other, for lines of up to `longest`."""
    scale = min(1.0, max((WIDEST + gap - longest * gap) / (longest * size[0]), SMALLEST / size[0]))
    cell = (max(1, int(size[0] * scale)), max(1, int(size[1] * scale)))
    return cell, max(1, min(longest, (WIDEST + gap) // (cell[0] + gap)))


def _wrapped(text: str, width: int, font: Any) -> list[str]:
    """Return the lines of a text that is no wider than `width` pixels, if its words are not."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width - 4:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _times(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
