"""What types of images are called: by their content, in the spec, and as extensions of files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, get_args

from turbo_fetch.spec import Encoding, ImageSpec

ENCODINGS: Final = tuple(name for name in get_args(Encoding) if name != "original")
"""Extensions of images that were encoded here, and names of what stands for them in samples."""

_EXTENSIONS: Final = {"jpeg": "jpg", "tiff": "tif", "jpeg2000": "jp2"}
"""Those that are not the name of the type."""
_SIGNATURES: Final[Sequence[tuple[bytes, str]]] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"BM", "bmp"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
)


def image_type(content: bytes) -> str | None:
    """Return the type of an image that was accepted before, as `original_format` names it."""
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "webp"
    if content[4:8] == b"ftyp":
        return "avif"
    return next((name for signature, name in _SIGNATURES if content.startswith(signature)), None)


def extension_of(image: ImageSpec) -> str:
    """Return the one extension of all images of a dataset, by which loaders pick them.

    As in img2dataset, `original` bytes are all called jpg.
    """
    return "jpg" if image.encode == "original" else image.encode


def sized(extension: str, size: str) -> str:
    """Return the extension of images of a further size: `128.jpg`; that of the main one, which is empty, as it is."""
    return f"{size}.{extension}" if size else extension


def true_extension(image: ImageSpec, original_type: str | None) -> str:
    """Return the extension of an image by what it is, where `original` bytes were of the type given."""
    return type_extension(original_type) if image.encode == "original" else image.encode


def type_extension(name: str | None) -> str:
    """Return the extension of files of a type of images."""
    found = (name or "bin").lower()
    return _EXTENSIONS.get(found, found)
