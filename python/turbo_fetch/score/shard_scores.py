"""The images of a shard all of whose rows are in its spool: what the function gets, in the order of the rows.

Which images are in one batch depends on the shard alone, not on when they arrived, nor on interruptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import pyarrow as pa

from turbo_fetch.arrow.binaries import contiguous, lengths
from turbo_fetch.dataset.keys import ShardKeys
from turbo_fetch.dataset.samples import metadata_batch, rows_where
from turbo_fetch.score.check import IMAGE
from turbo_fetch.spec import FetchSpec
from turbo_fetch.spool.spool import Spool

MOST_BYTES: Final = 64 << 20
"""Of the images of a batch, unless it is a single one."""
_NOT_SHOWN: Final = ("status", "error_message")


class SampleBatch(NamedTuple):
    """Samples for one call."""

    rows: pa.UInt32Array
    samples: pa.RecordBatch


def unscored_batches(
    fetch: FetchSpec, spool: Spool, source: pa.RecordBatch, number: int, most_rows: int
) -> Iterator[SampleBatch]:
    """Yield the images of the shard of a number that have no scores in its spool when this is called."""
    keys = ShardKeys.of(source, number, fetch.output)
    for results in _cut(_unscored(spool), most_rows):
        metadata = metadata_batch(source, results, keys, fetch.image)
        yield SampleBatch(results.column("row"), as_samples(metadata, results.column("image")))


def as_samples(metadata: pa.RecordBatch, images: pa.Array) -> pa.RecordBatch:
    """Return what the function gets of samples: their metadata, and the images as they are stored."""
    return metadata.drop_columns(list(_NOT_SHOWN)).append_column(IMAGE, contiguous(images))


def _unscored(spool: Spool) -> Iterator[pa.RecordBatch]:
    is_wanted = spool.to_score.copy()
    for results in spool.sorted_batches():
        yield rows_where(results, pa.array(is_wanted[results.column("row").to_numpy()]))


def _cut(results: Iterator[pa.RecordBatch], most_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows in batches of so many, and fewer where their images are large."""
    held: list[pa.RecordBatch] = []
    rows, size = 0, 0
    for each in results:
        start = 0
        for stop, length in enumerate(lengths(each.column("image")).tolist()):
            if rows == most_rows or (rows and size + length > MOST_BYTES):
                yield pa.concat_batches([*held, each.slice(start, stop - start)])
                held, start, rows, size = [], stop, 0, 0
            rows += 1
            size += length
        held.append(each.slice(start))
    if rows:
        yield pa.concat_batches(held)
