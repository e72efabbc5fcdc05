"""Folders of images as lists: a row for each image, in the order of the names, with the text file beside it as caption.

Columns are `url` (the path, or the address in a store), `caption` (from `cat.txt` for `cat.jpg`, null if there is none)
and `name` (the path within the folder, without the suffix).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa

from turbo_fetch.errors import InputError
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.image_files import ImageFile, images_in
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.lists import READING, ListFile, readable
from turbo_fetch.storage.filesystems import is_local, open_filesystem

COLUMNS: Final = ("url", "caption", "name")
CAPTION_BYTES: Final = 65_536
"""Longer text files are cut here."""
_ROWS: Final = 1024


def count_images(source: ListFile) -> int:
    """Return how many images a folder has."""
    filesystem, folder = open_filesystem(source.url, READING, InputError)
    with readable(source.url):
        return sum(1 for _ in images_in(filesystem, folder))


def read_images(
    source: ListFile, columns: Columns, schema: pa.Schema, notes: ListNotes
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a folder; captions are read if they are wanted. InputError if the folder cannot be read."""
    filesystem, folder = open_filesystem(source.url, READING, InputError)
    has_captions = "caption" in columns.wanted
    with readable(source.url):
        for images in _batches(images_in(filesystem, folder)):
            found = {
                "url": [_address(filesystem, image.path) for image in images],
                "caption": _captions(filesystem, folder, images) if has_captions else [None] * len(images),
                "name": [_name(image.path, folder) for image in images],
            }
            batch = pa.table({name: pa.array(found[name], pa.string()) for name in columns.wanted})
            yield columns.rows(batch.combine_chunks().to_batches()[0], schema, notes)


def _batches(images: Iterator[ImageFile]) -> Iterator[list[ImageFile]]:
    while batch := list(islice(images, _ROWS)):
        yield batch


def _address(filesystem: Any, path: str) -> str:
    """Return what a row says: the path, or a URL where a path cannot be written as text, or not be told from it."""
    if not is_local(filesystem):
        return str(filesystem.unstrip_protocol(path))
    is_plain = path == path.strip() and _is_text(path)
    return path if is_plain else Path(path).as_uri()


def _is_text(path: str) -> bool:
    with suppress(UnicodeEncodeError):
        path.encode()
        return True
    return False


def _name(path: str, folder: str) -> str:
    name = str(PurePosixPath(path[len(folder.rstrip("/")) + 1 :]).with_suffix(""))
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _captions(filesystem: Any, folder: str, images: list[ImageFile]) -> list[str | None]:
    paths = [image.caption for image in images if image.caption is not None]
    texts: dict[str, bytes | None]
    if is_local(filesystem):
        texts = {path: _first_bytes(Path(path), Path(folder)) for path in paths}
    else:
        texts = (
            filesystem.cat(paths) if len(paths) > 1 else {path: filesystem.cat_file(path) for path in paths}
        )
    return [None if image.caption is None else _caption(texts[image.caption]) for image in images]


def _first_bytes(path: Path, folder: Path) -> bytes | None:
    """Return the start of a file, None if a link leads out of the folder, or to what is no file."""
    resolved = path.resolve()
    if not resolved.is_relative_to(folder.resolve()) or not resolved.is_file():
        return None
    with resolved.open("rb") as file:
        return file.read(CAPTION_BYTES)


def _caption(text: bytes | None) -> str | None:
    return None if text is None else text[:CAPTION_BYTES].decode("utf-8-sig", "replace").strip()
