"""`parquet`: `NNNNN.parquet` with the metadata and the image of every row, in the column `image`.

The column is a Hugging Face image feature: `struct<bytes: binary, path: string>`, announced in the schema
metadata `huggingface`. Rows that failed are there too, as in img2dataset, with a null image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.binaries import contiguous
from turbo_fetch.dataset.formats.format import TABLE_READERS, Format, refuse_columns
from turbo_fetch.dataset.formats.images import true_extension
from turbo_fetch.dataset.formats.table_file import ImageTable, last_column
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.spec import ImageSpec

COLUMN: Final = "image"
IMAGE: Final = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def _schema(metadata: pa.Schema, _image: ImageSpec) -> pa.Schema:
    """Return the schema of the files; InputError if the list has a column of the name `image`."""
    refuse_columns(metadata, [COLUMN], "the column of images")
    announced = {"info": {"features": {COLUMN: {"_type": "Image"}}}}
    return metadata.append(pa.field(COLUMN, IMAGE)).with_metadata({"huggingface": orjson.dumps(announced)})


def _table(path: Path, metadata: pa.Schema, image: ImageSpec) -> ImageTable:
    def column(samples: Samples) -> pa.Array:
        found = samples.original_format.to_pylist()
        extensions = pa.array([true_extension(image, each) for each in found], pa.string())
        paths = pc.binary_join_element_wise(samples.metadata.column("key"), extensions, ".")
        return pa.StructArray.from_arrays(
            [contiguous(samples.image), paths], fields=list(IMAGE), mask=samples.image.is_null()
        )

    return ImageTable(path, _schema(metadata, image), column)


FORMAT: Final = Format(
    loads_in=f"Hugging Face datasets, {TABLE_READERS}",
    writer=_table,
    image_column=lambda table: last_column(table, (COLUMN,), pa.types.is_struct),
    check_columns=_schema,
)
