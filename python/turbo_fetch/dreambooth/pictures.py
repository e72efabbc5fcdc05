"""Pictures on disk: found with their captions and masks, opened upright as RGB, cut to size."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from turbo_fetch.dreambooth.geometry import Cut, Size

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
_MASK: Final = ".mask"


class Unreadable(Exception):
    """A file is no picture, or a broken one; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was opened once without fault. `size` is of the upright picture."""

    path: Path
    size: Size
    digest: str
    """Of the bytes of the picture and of its mask."""
    caption: str | None = None
    mask: Path | None = None


def files(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield each visible file of a folder in the order of names, and whether it is to be a picture.

    Captions (`photo.txt`), masks (`photo.mask.png`) and records (JSON) are no pictures, and not yielded.
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or path.suffix.lower() in {".txt", ".json", ".jsonl"}:
            continue
        if path.is_file() and not path.stem.endswith(_MASK):
            yield path, path.suffix.lower() in SUFFIXES
        elif path.is_dir():
            yield path, False


def inspect(path: Path, caption: str | None = None) -> Picture:
    """Open a picture, its sidecar caption and its mask, all of it. Raises Unreadable."""
    content = path.read_bytes()
    size = open_upright(path).size
    sidecar, mask = path.with_suffix(".txt"), path.with_name(f"{path.stem}{_MASK}.png")
    if sidecar.is_file():
        caption = _text(sidecar)
    if not mask.is_file():
        return Picture(path, size, hashlib.sha256(content).hexdigest(), caption)
    mask_size = open_upright(mask, "L").size
    if mask_size != size:
        raise Unreadable(f"{mask}: {_times(mask_size)} pixels; expected {_times(size)}, as the picture has")
    digest = hashlib.sha256(content + mask.read_bytes()).hexdigest()
    return Picture(path, size, digest, caption, mask)


def open_upright(path: Path, mode: str = "RGB") -> Image.Image:
    """Return the first frame in `mode`, turned as EXIF says, what is transparent on white. Raises Unreadable."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Broken metadata around a good picture is no fault of the picture.
            warnings.filterwarnings("ignore", category=UserWarning)
            image.load()
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise Unreadable(f"{path}: no picture of a known format") from None
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
    """Return the window of a picture at its target size, [H, W, 3], or [H, W] for mode L. Raises Unreadable."""
    image = open_upright(path, mode).resize(
        window.target, Image.Resampling.LANCZOS, box=window.box, reducing_gap=3.0
    )
    return np.asarray(ImageOps.mirror(image) if flip else image)


def _text(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path}: {error}; expected a caption in UTF-8") from error


def _times(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
