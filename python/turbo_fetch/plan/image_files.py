"""The image files in a folder, of this machine or of a store, in the order of their names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

from turbo_fetch.storage.filesystems import is_local

_COMMON: Final = frozenset({".gif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SUFFIXES: Final = _COMMON | {".avif", ".bmp", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jxl"}
CAPTION_SUFFIX: Final = ".txt"


class ImageFile(NamedTuple):
    """An image in a folder; `path` is as its file system names it."""

    path: str
    size: int
    caption: str | None
    """Path of the text file of its name, if there is one."""


def is_image(path: str) -> bool:
    """Return whether a file is named as images are."""
    return PurePosixPath(path).suffix.lower() in SUFFIXES


def images_in(filesystem: Any, folder: str) -> Iterator[ImageFile]:
    """Yield the images in a folder and the folders below it, but for hidden ones; links to folders are not followed."""
    return _walk(folder) if is_local(filesystem) else _found(filesystem, folder)


def fingerprint(images: Iterable[ImageFile], folder: str) -> str:
    """Return the digest of the names and sizes of the images of a folder, and of which have captions."""
    digest = hashlib.sha256()
    for image in images:
        line = f"{image.path[len(folder) :]}\n{image.size} {image.caption is not None}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _walk(folder: str) -> Iterator[ImageFile]:
    with os.scandir(folder) as found:
        entries = sorted(
            (entry for entry in found if not _is_hidden(entry.name)), key=lambda entry: entry.name
        )
    names = {entry.path for entry in entries}
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif is_image(entry.name) and not entry.is_dir():
            # What a link leads to is not looked at here, for that may be anywhere.
            size = 0 if entry.is_symlink() else entry.stat().st_size
            yield ImageFile(entry.path, size, _caption(entry.path, names))


def _found(filesystem: Any, folder: str) -> Iterator[ImageFile]:
    found = filesystem.find(folder, detail=True)
    start = len(folder.rstrip("/")) + 1
    for path in sorted(found, key=lambda path: path.split("/")):
        if is_image(path) and not _is_hidden(path[start:]):
            yield ImageFile(path, int(found[path].get("size") or 0), _caption(path, found))


def _caption(path: str, names: Container[str]) -> str | None:
    caption = str(PurePosixPath(path).with_suffix(CAPTION_SUFFIX))
    return caption if caption in names else None


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
