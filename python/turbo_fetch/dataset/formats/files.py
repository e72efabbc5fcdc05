"""`files`: a folder `NNNNN` with `key.jpg`, `key.json` and, with captions, `key.txt` of each sample.

Images of further sizes are `key.128.jpg`. Its `metadata.parquet`, one of the extras, has one row for each sample:
`file_name`, with further sizes `image_128_file_name` and so on, and then the metadata, which is what Hugging Face's
imagefolder looks for. Columns that imagefolder would take for images, by their name or that of a field in them, are
only in `NNNNN.parquet` and `key.json`; uint64 is text, for which imagefolder has no numbers, and moments that Python
does not know, as after the year 9999, are null.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from turbo_fetch.arrow.kept_types import is_list
from turbo_fetch.arrow.rows import rows_at
from turbo_fetch.arrow.schemas import IMAGES, named
from turbo_fetch.dataset.formats.format import Format, HuggingFace, StoredImage, together
from turbo_fetch.dataset.formats.images import sized, true_extension
from turbo_fetch.dataset.formats.members import TEXTS, members
from turbo_fetch.dataset.formats.staged_file import WrittenFile
from turbo_fetch.dataset.formats.table_file import TableFile
from turbo_fetch.dataset.hf_features import from_python, values_from_python
from turbo_fetch.dataset.metadata_files import opened
from turbo_fetch.dataset.names import FOLDER_METADATA, metadata
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.spec import ImageSpec
from turbo_fetch.storage import Storage
from turbo_fetch.storage.failures import write_error

FILE_NAME: Final = "file_name"
IMAGEFOLDER_EXTENSIONS: Final = ("jpg", "png", "webp", "gif", "bmp", "tif", "jp2", "ico")
"""Of `original` images, as far as imagefolder takes them."""


class Folder:
    """A folder in the work folder, filled sample by sample; what an earlier attempt left there is removed."""

    def __init__(self, path: Path, metadata: pa.Schema, image: ImageSpec, extras: bool = True) -> None:
        self._path = path
        self._extension = partial(true_extension, image)
        self._columns = [column for column in metadata if not _is_taken_for_images(column)]
        self._bytes = 0
        self._lines: list[str] = []
        try:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        except OSError as error:
            raise write_error(error, str(path), 0) from error
        columns = [column.with_type(from_python(column.type)) for column in self._columns]
        self._files = _file_columns(image)
        self._schema = pa.schema([*(pa.field(name, pa.string()) for name in self._files), *columns])
        self._table = TableFile(path / FOLDER_METADATA, self._schema) if extras else None

    def add(self, samples: Samples) -> None:
        """Write the files of the samples that have an image."""
        for member in members(samples, self._extension):
            path = self._path / member.name
            length = len(member.content)
            try:
                path.write_bytes(member.content)
            except OSError as error:
                raise write_error(error, str(path), length) from error
            self._bytes += length
            self._lines.append(f"{member.name} {length} {hashlib.sha256(member.content).hexdigest()}\n")
        if self._table is not None:
            self._add_metadata(samples, self._table)

    def finish(self, name: str) -> WrittenFile:
        """Return the folder, to be published as `name`."""
        if self._table is not None:
            table = self._table.finish(FOLDER_METADATA)
            self._bytes += table.bytes
            self._lines.append(f"{table.name} {table.bytes} {table.sha256}\n")
        digest = hashlib.sha256("".join(sorted(self._lines)).encode())
        return WrittenFile(name, self._path, self._bytes, digest.hexdigest(), is_folder=True)

    def close(self) -> None:
        """Close the table, finished or not."""
        if self._table is not None:
            self._table.close()

    def _add_metadata(self, samples: Samples, table: TableFile) -> None:
        kept = np.flatnonzero(samples.image.is_valid()).astype(np.uint32)
        rows = rows_at(samples.metadata, kept)
        formats = samples.original_format.take(pa.array(kept)).to_pylist()
        extensions = [self._extension(found) for found in formats]
        named = list(zip(rows.column("key").to_pylist(), extensions, strict=True))
        files = [
            pa.array([f"{key}.{sized(extension, size)}" for key, extension in named], pa.string())
            for size in self._files.values()
        ]
        columns = [values_from_python(rows.column(column.name)) for column in self._columns]
        table.add(pa.RecordBatch.from_arrays([*files, *columns], schema=self._schema))


def _file_columns(image: ImageSpec) -> dict[str, str]:
    """Return the columns of names of files, each with the size of whose files they are."""
    return {
        f"{named(IMAGES, size)}_{FILE_NAME}" if size else FILE_NAME: size for size in ("", *image.more_boxes)
    }


def _is_taken_for_images(column: pa.Field) -> bool:
    """Return whether imagefolder would look for images there; see `datasets`' folder_based_builder.py."""
    return column.name == "image" or _names_files(column)


def _names_files(column: Any) -> bool:
    if f"_{column.name}".endswith(("_file_name", "_file_names")):
        return True
    if is_list(column.type):
        return _names_files(column.type.value_field.with_name(""))
    return pa.types.is_struct(column.type) and any(map(_names_files, column.type))


def _read_images(storage: Storage, name: str, sizes: Sequence[str]) -> Iterator[StoredImage]:
    return together(f"{storage.url}/{name}", _members(storage, name), sizes)


def _members(storage: Storage, name: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, extension and content of each image, in the order of the rows."""
    with opened(storage, metadata(name)) as table:
        rows = {key: row for row, key in enumerate(table.read(["key"]).column("key").to_pylist())}
    names = [entry.name for entry in storage.list(name) if entry.bytes is not None]
    for found in sorted(names, key=lambda found: (rows.get(found.partition(".")[0], len(rows)), found)):
        key, _, extension = found.partition(".")
        if extension not in TEXTS and found != FOLDER_METADATA:
            yield key, extension, storage.read_bytes(f"{name}/{found}")


def _data_files(shard: str, image: ImageSpec) -> list[str]:
    # The types are in the table. A pattern for all files would make it a dataset of JSON.
    extensions = IMAGEFOLDER_EXTENSIONS if image.encode == "original" else (image.encode,)
    return [*(f"{shard}/*.{each}" for each in extensions), f"{shard}/{FOLDER_METADATA}"]


def _croissant_files(image: ImageSpec) -> tuple[str, str]:
    if image.encode == "original":
        return "*/*.*", "image/*"
    return f"*/*.{image.encode}", f"image/{'jpeg' if image.encode == 'jpg' else image.encode}"


FORMAT: Final = Format(
    loads_in="Hugging Face datasets (imagefolder), torchvision, anything that opens files",
    suffix="",
    writer=Folder,
    bare_writer=partial(Folder, extras=False),
    read_images=_read_images,
    hugging_face=HuggingFace(_data_files),
    croissant_files=_croissant_files,
)
