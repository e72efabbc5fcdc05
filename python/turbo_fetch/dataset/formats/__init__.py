"""Writers: from the sorted samples of a shard to its final files, as a pure function.

How the samples are cut into batches leaves no trace in the files, nor does the time at which they are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa

from turbo_fetch.dataset import names
from turbo_fetch.dataset.formats.dummy import Nothing
from turbo_fetch.dataset.formats.files import Folder
from turbo_fetch.dataset.formats.lmdb import LmdbFile, lmdb_package
from turbo_fetch.dataset.formats.parquet import ImageTable, parquet_schema
from turbo_fetch.dataset.formats.parquet_bytes import BytesTable, bytes_schema
from turbo_fetch.dataset.formats.staged import WrittenFile
from turbo_fetch.dataset.formats.tables import TableFile
from turbo_fetch.dataset.formats.tfrecord import RecordFile, check_names
from turbo_fetch.dataset.formats.webdataset import TarFile
from turbo_fetch.dataset.samples import Samples, metadata_schema
from turbo_fetch.spec import ImageSpec, OutputFormat

__all__ = ["SUFFIXES", "WrittenFile", "check_columns", "check_packages", "write_shard"]

SUFFIXES: Final[dict[OutputFormat, str]] = {
    "webdataset": ".tar",
    "files": "",
    "parquet": names.METADATA_SUFFIX,
    "parquet_bytes": names.METADATA_SUFFIX,
    "lmdb": ".lmdb",
    "tfrecord": ".tfrecord",
    "dummy": "",
}


class _Writer(Protocol):
    """What writes the pictures of one shard."""

    def add(self, samples: Samples) -> None: ...

    def finish(self, name: str) -> WrittenFile | None: ...

    def close(self) -> None: ...


def check_packages(output_format: OutputFormat) -> None:
    """Raise MissingExtra if the format needs a package that is not installed."""
    if output_format == "lmdb":
        lmdb_package()


def check_columns(output_format: OutputFormat, source: pa.Schema, image: ImageSpec) -> None:
    """Raise InputError if rows with the columns `source` cannot be written in this format."""
    metadata = metadata_schema(source, image)
    if output_format == "parquet":
        parquet_schema(metadata)
    elif output_format == "parquet_bytes":
        bytes_schema(metadata, image)
    elif output_format == "tfrecord":
        check_names(metadata)


def write_shard(
    output_format: OutputFormat,
    samples: Iterable[Samples],
    work: Path,
    name: str,
    image: ImageSpec,
    extras: bool = True,
) -> list[WrittenFile]:
    """Write the files of one shard into the folder `work`; return them in the order to publish them.

    `samples` are all rows of the shard, at least one, in row order; `name` is the shard's. Without `extras` there is
    nothing that img2dataset does not write. Files of that
    name in `work`, of an earlier attempt, are replaced. Raises OutputError if they cannot be written.
    """
    batches = iter(samples)
    first = next(batches)
    schema = first.metadata.schema
    path = work / names.staged(f"{name}{SUFFIXES[output_format]}")
    with ExitStack() as stack:
        data = stack.enter_context(closing(_writer(output_format, path, schema, image, extras)))
        table = None
        if not output_format.startswith("parquet"):
            table = stack.enter_context(closing(TableFile(work / names.staged(names.metadata(name)), schema)))
        for batch in chain([first], batches):
            data.add(batch)
            if table is not None:
                table.add(batch.metadata)
        written = [data.finish(f"{name}{SUFFIXES[output_format]}")]
        if table is not None:
            written.append(table.finish(names.metadata(name)))
    return [file for file in written if file is not None]


def _writer(
    output_format: OutputFormat, path: Path, schema: pa.Schema, image: ImageSpec, extras: bool
) -> _Writer:
    if output_format == "webdataset":
        return TarFile(path, image)
    if output_format == "files":
        return Folder(path, schema, image, extras)
    if output_format == "parquet":
        return ImageTable(path, schema, image)
    if output_format == "parquet_bytes":
        return BytesTable(path, schema, image)
    if output_format == "lmdb":
        return LmdbFile(path, image)
    if output_format == "tfrecord":
        return RecordFile(path, schema, image)
    return Nothing()
