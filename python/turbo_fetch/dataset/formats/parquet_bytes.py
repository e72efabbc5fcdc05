"""`parquet_bytes`: `NNNNN.parquet` as img2dataset writes it: a binary column, named after the encoding, comes last.

Further sizes have columns after it, such as `jpg_128`.
Rows that failed are there too, with a null image.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from turbo_fetch.arrow.binaries import contiguous
from turbo_fetch.dataset.formats.format import TABLE_READERS, Format, ImageColumn
from turbo_fetch.dataset.formats.images import ENCODINGS, extension_of

FORMAT: Final = Format(
    loads_in=f"Hugging Face datasets, {TABLE_READERS}",
    column=ImageColumn(
        field=lambda image: pa.field(extension_of(image), pa.binary()),
        values=lambda samples, image, size: contiguous(samples.images[size]),
        is_column=lambda last: last.name in ENCODINGS and pa.types.is_binary(last.type),
    ),
)
