"""An image file of whatever format, depth, colour profile or transparency → upright 8-bit pixels in sRGB.

Pillow decodes, LittleCMS (in Pillow) converts colours, and OpenCV reads the TIFF files that Pillow does not know. What
was done to an image beyond decoding is told, never silent.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError

from turbo_fetch.errors import MissingExtra

Size = tuple[int, int]
"""Width and height in pixels."""

WHOLE_PIXELS: Final = 90_000_000
"""JPEG files of more are decoded at a half, a quarter or an eighth of their size."""
MAX_PIXELS: Final = 500_000_000
"""More are not decoded, unless by parts: 1.5 to 2 GB of memory."""
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_MOVING: Final = frozenset({"GIF", "PNG", "WEBP", "AVIF", "TIFF"})
"""Formats with several images in a file that are not views of the same, as those of a phone's MPO are."""

_LIMITS = threading.Lock()
"""Held while Pillow's own limit is off, which it is for all threads at once."""


class Undecodable(Exception):
    """A file is not an image, or a broken or too large one; the message says why."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright image, and what was done to it."""

    image: Image.Image
    size: Size
    """Of the file. `image` may be smaller, in the same proportions."""
    notes: tuple[str, ...] = ()
    """What a person should know, each a part of a sentence about images."""


def decode(content: bytes) -> Decoded:
    """Return the first image of a file, RGB, what is transparent on white. Raises Undecodable, MissingExtra."""
    with _faults_explained():
        image, size, notes = _upright(content)
        shallow, deep_note = _in_8_bits(image)
        colour, alpha = _without_alpha(shallow)
        rgb, colour_note = _in_srgb(colour, image.info.get("icc_profile"))
        if alpha is not None:
            rgb = Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)
    return Decoded(rgb, size, (*notes, *filter(None, [deep_note, colour_note])))


def decode_mask(content: bytes) -> Decoded:
    """Return a mask, mode L: its brightness, what is transparent black; where all colours are black, its opacity.

    Its numbers are weights, so that colour profiles do not count. Raises Undecodable, MissingExtra.
    """
    with _faults_explained():
        image, size, _ = _upright(content)
        colour, alpha = _without_alpha(_in_8_bits(image)[0])
        grey = colour.convert("L")
        if alpha is not None:
            visible = Image.composite(grey, Image.new("L", grey.size), alpha)
            grey = visible if visible.getextrema()[1] else alpha
    return Decoded(grey, size)


@contextmanager
def _faults_explained() -> Iterator[None]:
    """Turn whatever Pillow's readers raise for one broken file or another into Undecodable."""
    try:
        yield
    except (Undecodable, MissingExtra, MemoryError):
        raise
    except Exception as error:
        raise Undecodable(str(error) or type(error).__name__) from error


def _upright(content: bytes) -> tuple[Image.Image, Size, list[str]]:
    """Return the image turned as EXIF says, the size of the whole image turned so, and what is to be told."""
    with warnings.catch_warnings(), _no_limits():
        # Broken metadata around a good image is no fault of the image.
        warnings.simplefilter("ignore")
        image, notes = _opened(content)
        size = image.size
        factor = _reduction(image)
        if factor > 1:
            image.draft(None, (size[0] // factor, size[1] // factor))
            notes.append("decoded at a fraction of their size, as they are very large")
        image.load()
    if image.format in _MOVING and getattr(image, "n_frames", 1) > 1:
        notes.append("of several frames or pages, of which the first is used")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ImageOps.exif_transpose(image, in_place=True)
    except Exception:
        # Whatever a broken EXIF makes Pillow raise.
        notes.append("with broken EXIF data, which is ignored")
    lies = size[0] > size[1]
    turned = image.width != image.height and lies != (image.width > image.height)
    return image, size[::-1] if turned else size, notes


def _opened(content: bytes) -> tuple[Image.Image, list[str]]:
    """Return an image, most likely not decoded yet, and what is to be told of it."""
    try:
        return Image.open(io.BytesIO(content)), []
    except UnidentifiedImageError:
        if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
            return _with_libheif(content), []
        if content[:4] in {b"II*\0", b"MM\0*"}:
            return _with_opencv(content)
        raise Undecodable("not an image of a known format") from None


def _with_libheif(content: bytes) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ModuleNotFoundError as error:
        raise MissingExtra("pillow-heif", "heic", "an image in HEIC, the format of phones,") from error
    opened: Image.Image = HeifImageFile(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return opened


def _with_opencv(content: bytes) -> tuple[Image.Image, list[str]]:
    """Read a TIFF of several deep channels, scaled to 8 bits."""
    import cv2

    tags = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
    file = io.BytesIO(content)
    file.seek(tags.next)
    tags.load(file)
    _check_size(int(tags[256]) * int(tags[257]))
    # It would print a line for each odd file.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise Undecodable("a TIFF of a kind that neither Pillow nor OpenCV reads")
    samples, note = _scaled(pixels)
    image = Image.fromarray(samples if samples.ndim == 2 else samples[..., [2, 1, 0, 3][: samples.shape[2]]])
    image.getexif()[0x0112] = int(tags.get(274, 1))
    return image, [] if note is None else [note]


def _reduction(image: Image.Image) -> int:
    """Return by what an image is to be reduced while it is decoded. Raises Undecodable if it is too large for that."""
    pixels = image.width * image.height
    # All coefficients of a progressive JPEG are held until its last scan.
    by_parts = image.format in {"JPEG", "MPO"} and not image.info.get("progressive")
    if not by_parts:
        _check_size(pixels)
    if image.format not in {"JPEG", "MPO"}:
        return 1
    return next((factor for factor in (1, 2, 4) if pixels / factor**2 <= WHOLE_PIXELS), 8)


def _check_size(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise Undecodable(
            f"has {pixels / 1e6:,.0f} megapixels; expected at most {MAX_PIXELS / 1e6:,.0f}, or a baseline JPEG"
        )


@contextmanager
def _no_limits() -> Iterator[None]:
    """Have Pillow open images of any size: what is too large is decided here, by the memory that it takes."""
    with _LIMITS:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


_WHITES: Final = (255.0, 65535.0, 4294967295.0)
_HIGHLIGHTS: Final = 16.0
"""Values up to here are highlights beyond a white of 1, and not of a larger scale."""


def _scaled(values: NDArray[Any]) -> tuple[NDArray[np.uint8], str | None]:
    """Return samples of any depth as 8 bits, and what is to be told if their white had to be guessed."""
    if values.dtype == np.uint8:
        return values, None
    white, note = 65535.0, None
    if values.dtype != np.uint16:
        is_float = values.dtype.kind == "f"
        values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
        largest = float(values.max(initial=0.0))
        white = next((usual for usual in _WHITES if largest <= usual), largest)
        if is_float and largest <= _HIGHLIGHTS:
            white = 1.0
        note = f"with 32-bit values, of which {white:,.0f} is taken for white"
    return (values.clip(0, white) * (255 / white) + 0.5).astype(np.uint8), note


def _in_8_bits(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Return an image of one deep channel as mode L or LA, any other as it is, and what is to be told of it."""
    if not image.mode.startswith("I;16") and image.mode not in {"I", "F"}:
        return image, None
    values = np.asarray(image)
    if image.mode == "I" and values.min() < 0:
        # Pillow reads unsigned numbers of 32 bits as signed ones.
        values = values.view(np.uint32)
    samples, note = _scaled(values.astype(np.uint16) if image.mode.startswith("I;16") else values)
    grey = Image.fromarray(samples)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey, note


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours of an image, in a mode that colour profiles are for, and its opacity, mode L."""
    if not image.has_transparency_data:
        plain = {"1": "L", "P": "RGB", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"}.get(image.mode)
        return image.convert(plain) if plain else image, None
    if image.mode == "La":
        image = image.convert("LA")
    opacity = image.convert("RGBA").getchannel("A")
    if image.mode in {"L", "LA", "1"}:
        return image.convert("LA").getchannel("L") if image.mode == "LA" else image.convert("L"), opacity
    return image.convert("RGBA").convert("RGB"), opacity


def _in_srgb(colour: Image.Image, icc: object) -> tuple[Image.Image, str | None]:
    """Return an image as RGB, converted if its colour profile is another, and what is to be told of it."""
    transform, note = None, None
    if isinstance(icc, bytes) and icc:
        transform, note = _conversion(icc, colour.mode)
    if transform is None and colour.mode == "LAB":
        transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), _SRGB, "LAB", "RGB")
    if transform is None:
        return colour.convert("RGB"), note
    converted: Image.Image = transform.apply(colour)
    return converted, note


_SRGB: Final = ImageCms.createProfile("sRGB")


@lru_cache(maxsize=16)
def _conversion(icc: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str | None]:
    """Return how a profile's colours become sRGB, None if they are, and what is to be told of it."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(profile, _SRGB, mode, "RGB")
        name = ImageCms.getProfileDescription(profile).strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, "with a colour profile that is broken or for other colours, which is ignored"
    if mode in {"RGB", "L"}:
        colours = _lattice().convert(mode)
        same = np.asarray(colours.convert("RGB"), np.int16)
        if np.abs(np.asarray(transform.apply(colours), np.int16) - same).max() <= 1:
            return None, None
    return transform, f"converted to sRGB from {name or 'another colour profile'}"


def _lattice() -> Image.Image:
    """Return colours all over the cube, as an image."""
    steps = np.linspace(0, 255, 18).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(18, -1, 3))
