"""`parquet_bytes`: `NNNNN.parquet` as img2dataset writes it: a binary column, named after the encoding, comes last.

Rows that failed are there too, with a null image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa

from turbo_fetch.arrow.binaries import contiguous
from turbo_fetch.dataset.formats.format import TABLE_READERS, Format, refuse_columns
from turbo_fetch.dataset.formats.images import ENCODINGS, extension_of
from turbo_fetch.dataset.formats.table_file import ImageTable, last_column
from turbo_fetch.spec import ImageSpec


def _schema(metadata: pa.Schema, image: ImageSpec) -> pa.Schema:
    """Return the schema of the files; InputError if the list has a column named as that of the images."""
    column = extension_of(image)
    refuse_columns(metadata, [column], "the column of images")
    return metadata.append(pa.field(column, pa.binary()))


def _table(path: Path, metadata: pa.Schema, image: ImageSpec) -> ImageTable:
    return ImageTable(path, _schema(metadata, image), lambda samples: contiguous(samples.image))


FORMAT: Final = Format(
    loads_in=f"Hugging Face datasets, {TABLE_READERS}",
    writer=_table,
    image_column=lambda table: last_column(table, ENCODINGS, pa.types.is_binary),
    check_columns=_schema,
)
