"""Pixels of the formats that Rust does not decode: AVIF, TIFF and JPEG 2000, by OpenCV or by Pillow.

The native module reads the headers, checks the limits and names the decoder; nothing here decides. Both libraries are
imported when the first such image comes. Pillow's own limits and warnings do not count: its files are opened past
`Image.open`, which keeps them, and what it warns of shows in the pixels or not at all.
"""

from __future__ import annotations

import io
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from turbo_fetch.arrow.binaries import Blob
from turbo_fetch.outcomes import Outcome

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

OPENCV: Final = 255
PILLOW: Final = 254
"""Outcome numbers by which the native module asks for an image to be decoded here; they never leave."""

_WARNINGS = threading.Lock()
"""Held while warnings are off, which they are for all threads at once."""


@dataclass(frozen=True)
class Pixels:
    """A decoded image: samples row by row, in a layout that the native module knows by name."""

    samples: bytes
    width: int
    height: int
    layout: str
    bits: int


class DecodeError(Exception):
    """An image that yields no pixels: the outcome and why."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


def decode(reader: int, kind: str, body: Blob) -> Pixels:
    """Return the pixels of a body of format `kind`; raises DecodeError for one that has none."""
    try:
        return _with_opencv(body) if reader == OPENCV else _with_pillow(kind, body)
    except MemoryError:
        raise DecodeError(Outcome.OUT_OF_MEMORY, "takes more memory than there is") from None


_SETTING = threading.Lock()
_as_it_was: Final[dict[str, int]] = {}
"""How many threads OpenCV had, and what it told."""


def _opencv() -> Any:
    """Return OpenCV, set to work in the thread that calls and to print no line for each odd file."""
    import cv2

    with _SETTING:
        if not _as_it_was:
            _as_it_was.update(threads=cv2.getNumThreads(), level=cv2.utils.logging.getLogLevel())
            cv2.setNumThreads(1)
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def leave_opencv_as_it_was() -> None:
    """Set OpenCV back, in a process that is somebody else's and in which nothing is decoded any more."""
    if _as_it_was:
        import cv2

        cv2.setNumThreads(_as_it_was["threads"])
        cv2.utils.logging.setLogLevel(_as_it_was["level"])
        _as_it_was.clear()


def _with_opencv(body: Blob) -> Pixels:
    """Decode what the native module found to be 8 or 16 bits of grey or colour, upright and without alpha."""
    import numpy as np

    cv2 = _opencv()
    try:
        pixels = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        pixels = None
    if pixels is None:
        raise DecodeError(Outcome.CORRUPT, "data is broken")
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    layout = {1: "L", 3: "BGR"}.get(channels)
    if layout is None or pixels.dtype not in (np.uint8, np.uint16):
        raise DecodeError(Outcome.UNSUPPORTED, f"with {channels} channels of type {pixels.dtype}")
    height, width = pixels.shape[:2]
    return Pixels(pixels.tobytes(), width, height, layout, pixels.dtype.itemsize * 8)


def _with_pillow(kind: str, body: Blob) -> Pixels:
    try:
        picture = _opened(kind, body)
        # The decoders run without the interpreter's lock.
        picture.load()
        return _pixels(picture)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, RuntimeError) as error:
        if "memory" in str(error):
            raise MemoryError from None
        raise DecodeError(Outcome.CORRUPT, "data is broken") from None


def _opened(kind: str, body: Blob) -> ImageFile:
    """Return the image, of which TIFF is loaded too, since its loading warns as the opening of others does."""
    from PIL import AvifImagePlugin, Image, Jpeg2KImagePlugin, TiffImagePlugin

    file = io.BytesIO(body)
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "avif":
            return AvifImagePlugin.AvifImageFile(file)
        if kind == "jpeg2000":
            return Jpeg2KImagePlugin.Jpeg2KImageFile(file)
        try:
            picture = TiffImagePlugin.TiffImageFile(file)
            picture.load()
        except Image.DecompressionBombError:
            raise DecodeError(Outcome.UNSUPPORTED, "variant with more pixels than Pillow takes") from None
        return picture


def _pixels(picture: ImageFile) -> Pixels:
    """Return the samples of an image in its own layout, or in the nearest that the native module knows."""
    mode = picture.mode
    image: Image = picture
    if mode.startswith("I;16"):
        return _deep_grey(picture)
    if mode not in {"L", "LA", "RGB", "RGBA", "CMYK"}:
        alpha = mode in {"PA", "La"} or "transparency" in picture.info
        mode = {"1": "L", "La": "LA"}.get(mode, "RGBA" if alpha else "RGB")
        image = picture.convert(mode)
    width, height = image.size
    return Pixels(image.tobytes(), width, height, mode, 8)


def _deep_grey(picture: ImageFile) -> Pixels:
    """Return samples of 16 bits, whatever their byte order; Pillow's conversion from I;16B to I;16 cuts them to 255."""
    import sys

    import numpy as np

    samples = np.asarray(picture)
    order = "<" if sys.byteorder == "little" else ">"
    width, height = picture.size
    return Pixels(samples.astype(f"{order}u2", copy=False).tobytes(), width, height, "L", 16)
