"""Rows of a shard, as tests need them: source rows, results with images, in any order and cut."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from turbo_fetch.arrow.schemas import RESULTS
from turbo_fetch.dataset.keys import ShardKeys
from turbo_fetch.dataset.samples import Samples, metadata_batch
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import ImageSpec, OutputSpec

STARTED = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
FAILED = Outcome.HTTP_4XX


@cache
def picture(row: int, encoding: str = "png") -> bytes:
    """Return an encoded image that differs by row."""
    pixels = np.random.default_rng(row).integers(0, 256, (8 + row % 5, 9, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, encoding)
    return sink.getvalue()


def pixels(row: int) -> np.ndarray[Any, Any]:
    """Return the pixels of `picture(row)` in lossless encodings."""
    return np.random.default_rng(row).integers(0, 256, (8 + row % 5, 9, 3), np.uint8)


def fails(row: int) -> bool:
    """Return whether a row fails: every seventh does."""
    return row % 7 == 3


def result(row: int, image: bytes | None = None) -> dict[str, Any]:
    """Return the result of a row, a function of the row alone."""
    values: dict[str, Any] = dict.fromkeys(RESULTS.names)
    values |= {"row": row, "attempts": 1, "body_bytes": 1000 + row, "started": STARTED, "total_ms": 1.5}
    if fails(row):
        return values | {"outcome": FAILED.number, "detail": "HTTP Error 404: Not Found", "http_status": 404}
    return values | {
        "outcome": 0,
        "http_status": 200,
        "redirects": [f"http://r.example/{row}"] if row % 2 else None,
        "width": 9,
        "height": 8 + row % 5,
        "original_width": 90,
        "original_height": 80,
        "original_format": "png",
        "exif": "{}",
        "digest": f"{row:064x}",
        "image": picture(row) if image is None else image,
    }


def per_shard(samples: int, **options: Any) -> OutputSpec:
    """Return an output of so many samples per shard."""
    return OutputSpec(path="out", samples_per_shard=samples, **options)


def results(rows: Sequence[int]) -> pa.RecordBatch:
    """Return the results of rows in the order given."""
    return pa.RecordBatch.from_pylist([result(row) for row in rows], schema=RESULTS)


def source(count: int, **columns: pa.Array) -> pa.RecordBatch:
    """Return the source rows of a shard: url, caption (null in every fifth row), and more columns."""
    return pa.RecordBatch.from_pydict(
        {
            "url": pa.array([f"http://h{row % 3}.example/{row}.png" for row in range(count)]),
            "caption": pa.array([None if row % 5 == 4 else f"a ünï {row}" for row in range(count)]),
            **columns,
        }
    )


def samples(
    count: int,
    image: ImageSpec,
    shard: int = 0,
    rows_per_batch: int = 16,
    listed: pa.RecordBatch | None = None,
) -> Iterator[Samples]:
    """Yield all samples of a shard in row order, cut as asked."""
    listed = source(count) if listed is None else listed
    for start in range(0, count, rows_per_batch):
        batch = results(range(start, min(start + rows_per_batch, count)))
        metadata = metadata_batch(listed, batch, ShardKeys(shard, per_shard(1000)), image)
        yield Samples(metadata, batch.column("image"), batch.column("original_format"))
