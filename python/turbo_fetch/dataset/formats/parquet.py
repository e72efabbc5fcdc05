"""`parquet`: `NNNNN.parquet` with the metadata and the image of every row, in the column `image`.

The column is a Hugging Face image feature: `struct<bytes: binary, path: string>`, announced in the schema
metadata `huggingface`; so are those of further sizes, such as `image_128`. Rows that failed are there too, as in
img2dataset, with a null image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.binaries import contiguous
from turbo_fetch.dataset.formats.format import TABLE_READERS, Format, ImageColumn
from turbo_fetch.dataset.formats.images import sized, true_extension
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.spec import ImageSpec

COLUMN: Final = "image"
IMAGE: Final = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def _values(samples: Samples, image: ImageSpec, size: str) -> pa.Array:
    found, images = samples.original_format.to_pylist(), samples.images[size]
    extensions = pa.array([sized(true_extension(image, each), size) for each in found], pa.string())
    paths = pc.binary_join_element_wise(samples.metadata.column("key"), extensions, ".")
    return pa.StructArray.from_arrays([contiguous(images), paths], fields=list(IMAGE), mask=images.is_null())


def _metadata(columns: Sequence[str]) -> dict[str, bytes]:
    features = {name: {"_type": "Image"} for name in columns}
    return {"huggingface": orjson.dumps({"info": {"features": features}})}


FORMAT: Final = Format(
    loads_in=f"Hugging Face datasets, {TABLE_READERS}",
    column=ImageColumn(
        field=lambda image: pa.field(COLUMN, IMAGE),
        values=_values,
        is_column=lambda last: last.name == COLUMN and pa.types.is_struct(last.type),
        metadata=_metadata,
    ),
)
