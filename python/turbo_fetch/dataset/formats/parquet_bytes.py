"""`parquet_bytes`: `NNNNN.parquet` as img2dataset writes it: a binary column, named after the encoding, comes last.

Rows that failed are there too, with a null picture.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from turbo_fetch.arrow.binaries import contiguous
from turbo_fetch.dataset.formats.parquet import BYTES_PER_GROUP, ROWS_PER_GROUP
from turbo_fetch.dataset.formats.staged_file import WrittenFile
from turbo_fetch.dataset.formats.table_file import TableFile
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.errors import InputError
from turbo_fetch.spec import ImageSpec


def bytes_schema(metadata: pa.Schema, image: ImageSpec) -> pa.Schema:
    """Return the schema of the files; InputError if the list has a column named as that of the pictures."""
    column = "jpg" if image.encode == "original" else image.encode
    if column in metadata.names:
        raise InputError(
            f"the list's column {column!r} has the name of the column of pictures; expected another: give it "
            "a new name in fetch.input.keep_columns, or leave it out"
        )
    return metadata.append(pa.field(column, pa.binary()))


class BytesTable:
    """A Parquet file with pictures in the work folder, filled sample by sample."""

    def __init__(self, path: Path, metadata: pa.Schema, image: ImageSpec) -> None:
        self._schema = bytes_schema(metadata, image)
        self._file = TableFile(path, self._schema, ROWS_PER_GROUP, self._schema.names[-1], BYTES_PER_GROUP)

    def add(self, samples: Samples) -> None:
        """Append the samples, with or without a picture."""
        columns = [*samples.metadata.columns, contiguous(samples.image)]
        self._file.add(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def finish(self, name: str) -> WrittenFile:
        """Return the finished file, to be published as `name`."""
        return self._file.finish(name)

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()
