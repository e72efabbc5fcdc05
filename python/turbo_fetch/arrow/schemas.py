"""The Arrow schemas that pass between the parts, and the columns that users read.

Three tables describe a shard, all ordered by `row`, the row's index within the shard:

- *source rows*: what the list says (`url`, `caption`, kept columns), with any Arrow types;
- *results*: what happened (:data:`RESULTS`), one record per row, journalled in the spool;
- *samples*: both joined in img2dataset's column order, which writers turn into files.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Final

import pyarrow as pa

TRANSFORMED: Final = pa.schema(
    [
        pa.field("outcome", pa.uint8(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("original_format", pa.string()),
        pa.field("exif", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("phash", pa.string()),
        pa.field("image", pa.binary_view()),
    ]
)
"""What the transform returns, one record per body, in the order given.

`image` is null unless `outcome` is success; a body that is kept as it came is referred to, not copied. `digest` is over
the original bytes, in lower-case hex; `phash` is the perceptual hash in 16 hex digits.
Widths and heights are in pixels, the original ones before EXIF orientation is applied.
"""

FETCHED: Final = pa.schema(
    [
        pa.field("row", pa.uint32(), nullable=False),
        pa.field("http_status", pa.uint16()),
        pa.field("attempts", pa.uint8(), nullable=False),
        pa.field("redirects", pa.list_(pa.string())),
        pa.field("final_url", pa.string()),
        pa.field("content_type", pa.string()),
        pa.field("etag", pa.string()),
        pa.field("last_modified", pa.string()),
        pa.field("body_bytes", pa.uint64(), nullable=False),
        pa.field("started", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("first_byte_ms", pa.float32()),
        pa.field("total_ms", pa.float32(), nullable=False),
    ]
)
"""What the fetcher knows of one row, whether it has a body or not."""

RESULTS: Final = pa.schema([*FETCHED, *TRANSFORMED])
"""One record of the spool: a row is in it exactly once when the shard is complete."""

IMAGES: Final = "image"
"""Column of the images of the main size."""


def named(column: str, size: str) -> str:
    """Return what a column of images of a further size is called; the name itself for the main size, an empty one."""
    return f"{column}_{size}" if size else column


def side_columns(size: str) -> tuple[pa.Field, pa.Field]:
    """Return the columns of width and height of the images of a size."""
    return pa.field(named("width", size), pa.int32()), pa.field(named("height", size), pa.int32())


def transformed_schema(more: Iterable[str]) -> pa.Schema:
    """Return :data:`TRANSFORMED` with the columns of images of further sizes."""
    fields = [(*side_columns(size), pa.field(named(IMAGES, size), pa.binary_view())) for size in more]
    return pa.schema([*TRANSFORMED, *chain.from_iterable(fields)])


def results_schema(more: Iterable[str]) -> pa.Schema:
    """Return :data:`RESULTS` with the columns of images of further sizes."""
    return pa.schema([*FETCHED, *transformed_schema(more)])


def image_columns(results: pa.Schema) -> list[str]:
    """Return the columns of images of results, that of the main size first."""
    return [field.name for field in results if pa.types.is_binary_view(field.type)]


EXPECTED_HASH: Final = {f"expected {kind}": kind for kind in ("md5", "sha256", "sha512")}
"""Source column of the hash that a row must have → its kind, which is its name in the dataset."""

BOXES: Final = "boxes to blur"
"""Source column of boxes, as the JSON of a list of lists."""

IMAGE_AT: Final = "image at"
"""Source column that says where a row's image is in a column: its row number and file, as text."""

RECORD: Final = ("record file", "record offset", "record length")
"""Source columns that say where a row's record is in an archive."""

CAPTIONS: Final = "captions"
"""Source column of the captions of all rows with one URL, where they are asked for."""

UNSTORED: Final = frozenset({BOXES, IMAGE_AT, *RECORD})
"""Source columns that are not in the dataset."""

LEDGER: Final = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("retryable", pa.bool_(), nullable=False),
        pa.field("detail", pa.string()),
        *[field for field in FETCHED if field.name != "row"],
    ]
)
"""One row per URL of a shard, in list order, `url` with its secrets masked. Timings live only here."""

IMG2DATASET_RESULT_COLUMNS: Final = (
    pa.field("key", pa.string()),
    pa.field("status", pa.string()),
    pa.field("error_message", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("original_width", pa.int32()),
    pa.field("original_height", pa.int32()),
)
"""img2dataset's columns after the source columns and before `exif` and the hash."""
