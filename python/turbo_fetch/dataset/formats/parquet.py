"""`parquet`: `NNNNN.parquet` with the metadata and the picture of every row, in the column `image`.

The column is a Hugging Face image feature: `struct<bytes: binary, path: string>`, announced in the schema
metadata `huggingface`. Rows that failed are there too, as in img2dataset, with a null picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.binaries import contiguous
from turbo_fetch.dataset.formats.files import EXTENSIONS
from turbo_fetch.dataset.formats.staged_file import WrittenFile
from turbo_fetch.dataset.formats.table_file import TableFile
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.errors import InputError
from turbo_fetch.spec import ImageSpec

ROWS_PER_GROUP: Final = 256
BYTES_PER_GROUP: Final = 32 << 20
COLUMN: Final = "image"
IMAGE: Final = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def parquet_schema(metadata: pa.Schema) -> pa.Schema:
    """Return the schema of the files; InputError if the list has a column of the name `image`."""
    if COLUMN in metadata.names:
        raise InputError(
            f"the list's column {COLUMN!r} has the name of the column of pictures; expected another: give it "
            "a new name in fetch.input.keep_columns, or leave it out"
        )
    announced = {"info": {"features": {COLUMN: {"_type": "Image"}}}}
    return metadata.append(pa.field(COLUMN, IMAGE)).with_metadata({"huggingface": orjson.dumps(announced)})


class ImageTable:
    """A Parquet file with pictures in the work folder, filled sample by sample."""

    def __init__(self, path: Path, metadata: pa.Schema, image: ImageSpec) -> None:
        self._schema = parquet_schema(metadata)
        self._encoding = image.encode
        self._file = TableFile(path, self._schema, ROWS_PER_GROUP, COLUMN, BYTES_PER_GROUP)

    def add(self, samples: Samples) -> None:
        """Append the samples, with or without a picture."""
        missing = samples.image.is_null()
        paths = pc.binary_join_element_wise(samples.metadata.column("key"), self._extensions(samples), ".")
        pictures = pa.StructArray.from_arrays(
            [contiguous(samples.image), paths], fields=list(IMAGE), mask=missing
        )
        columns = [*samples.metadata.columns, pictures]
        self._file.add(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def finish(self, name: str) -> WrittenFile:
        """Return the finished file, to be published as `name`."""
        return self._file.finish(name)

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def _extensions(self, samples: Samples) -> pa.Array:
        if self._encoding != "original":
            return pa.repeat(self._encoding, len(samples.image))
        found = samples.original_format.to_pylist()
        return pa.array([EXTENSIONS.get(name, name) for name in found], pa.string())
