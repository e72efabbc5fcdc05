"""Images on disk: found with their captions and masks, opened upright as RGB, cut to size; and many on one sheet."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
LABEL_HEIGHT: Final = 16
"""In pixels, on a sheet of small images."""
WIDEST: Final = 4096
"""Pixels of a sheet from left to right: the images of longer lines are made smaller."""
SMALLEST: Final = 192
"""Side in pixels below which they are not made smaller; then a line goes on below."""
_MASK: Final = ".mask"

Size = tuple[int, int]
"""Width and height in pixels."""


class Unreadable(Exception):
    """A file is not an image, or a broken one; the message says which and why."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image that was opened once without fault. `size` is of the upright image."""

    path: Path
    size: Size
    digest: str
    """Of the bytes of the image and of its mask."""
    caption: str | None = None
    mask: Path | None = None


def files(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield each visible file of a folder in the order of names, and whether it is to be an image.

    Captions (`photo.txt`), masks (`photo.mask.png`) and records (JSON) are not images, and not yielded.
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or path.suffix.lower() in {".txt", ".json", ".jsonl"}:
            continue
        if path.is_file() and not path.stem.endswith(_MASK):
            yield path, path.suffix.lower() in SUFFIXES
        elif path.is_dir():
            yield path, False


def inspect(path: Path, caption: str | None = None) -> ImageFile:
    """Open an image, its sidecar caption and its mask, all of it. Raises Unreadable."""
    content = path.read_bytes()
    size = open_upright(path).size
    sidecar, mask = path.with_suffix(".txt"), path.with_name(f"{path.stem}{_MASK}.png")
    if sidecar.is_file():
        caption = _text(sidecar)
    if not mask.is_file():
        return ImageFile(path, size, hashlib.sha256(content).hexdigest(), caption)
    mask_size = open_upright(mask, "L").size
    if mask_size != size:
        raise Unreadable(f"{mask}: {_times(mask_size)} pixels; expected {_times(size)}, as the image has")
    digest = hashlib.sha256(content + mask.read_bytes()).hexdigest()
    return ImageFile(path, size, digest, caption, mask)


def open_upright(path: Path, mode: str = "RGB") -> Image.Image:
    """Return the first frame in `mode`, turned as EXIF says, what is transparent on white. Raises Unreadable."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Broken metadata around a good image is no fault of the image.
            warnings.filterwarnings("ignore", category=UserWarning)
            image.load()
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise Unreadable(f"{path}: not an image of a known format") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise Unreadable(f"{path}: {error}") from error
    if upright.mode.startswith("I;16") or upright.mode in {"I", "F"}:
        upright = Image.fromarray((np.asarray(upright, np.float32) / 257).clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return upright.convert(mode)


def render(path: Path, window: Cut, flip: bool, mode: str = "RGB") -> NDArray[np.uint8]:
    """Return the window of an image at its target size, [H, W, 3], or [H, W] for mode L. Raises Unreadable."""
    image = open_upright(path, mode).resize(
        window.target, Image.Resampling.LANCZOS, box=window.box, reducing_gap=3.0
    )
    return np.asarray(ImageOps.mirror(image) if flip else image)


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


def _text(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path}: {error}; expected a caption in UTF-8") from error


def _times(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
