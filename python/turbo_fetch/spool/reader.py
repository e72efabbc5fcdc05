"""Reads the rows of a spool in order, at flat memory, from frames in which they stand in any order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from turbo_fetch.arrow.binaries import Blob, blobs, view_array
from turbo_fetch.arrow.schemas import image_columns
from turbo_fetch.spool import frames
from turbo_fetch.spool.batch import parse_batch
from turbo_fetch.spool.index import Index

OUTPUT_BATCH_BYTES: Final = 16 << 20
PARSED_FRAMES: Final = 256


def sorted_batches(descriptor: int, index: Index, rows_per_batch: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the spool open at `descriptor`; see `Spool.sorted_batches`."""
    rows = np.flatnonzero(index.done)
    if not rows.size:
        return
    with frames.Mapped(descriptor) as mapped:
        reader = _FrameReader(mapped, index)
        for cut in _cuts(index.image_bytes[rows], rows_per_batch):
            yield reader.gather(rows[cut])
            mapped.let_go()


class _Parsed(NamedTuple):
    """A batch as it lies in the file, its images apart, by column: Arrow cannot take from views yet."""

    schema: pa.Schema
    small: pa.RecordBatch
    images: dict[str, list[Blob | None]]


class _FrameReader:
    """Gathers rows from frames of a mapped spool, keeping the latest frames parsed."""

    def __init__(self, mapped: frames.Mapped, index: Index) -> None:
        self._mapped = mapped
        self._index = index
        self._parsed: dict[int, _Parsed] = {}

    def gather(self, rows: npt.NDArray[np.intp]) -> pa.RecordBatch:
        """Return one batch of `rows` in the order given; images stay where they are in the file."""
        which, where = self._index.frame[rows], self._index.place[rows]
        order = np.argsort(which, kind="stable")
        parts = [
            self._batch(int(which[group[0]])).small.take(pa.array(where[group]))
            for group in np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
        ]
        back = np.empty(order.size, np.int64)
        back[order] = np.arange(order.size)
        small = pa.concat_batches(parts).take(pa.array(back))
        parsed = [self._batch(frame) for frame in which.tolist()]
        places, schema = where.tolist(), parsed[0].schema
        columns = dict(zip(small.schema.names, small.columns, strict=True))
        for name in parsed[0].images:
            images = [each.images[name][place] for each, place in zip(parsed, places, strict=True)]
            columns[name] = view_array(images)
        return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)

    def _batch(self, number: int) -> _Parsed:
        parsed = self._parsed.pop(number, None)
        if parsed is None:
            batch = parse_batch(self._mapped.buffer, self._index.frames[number])
            images = {name: blobs(batch.column(name)) for name in image_columns(batch.schema)}
            parsed = _Parsed(batch.schema, batch.drop_columns([*images]), images)
            if len(self._parsed) >= PARSED_FRAMES:
                self._parsed.pop(next(iter(self._parsed)))
        self._parsed[number] = parsed
        return parsed


def _cuts(image_bytes: npt.NDArray[np.uint64], most_rows: int) -> Iterator[slice]:
    start, total = 0, 0
    for stop, size in enumerate(image_bytes.tolist()):
        if stop > start and (stop - start >= most_rows or total + size > OUTPUT_BATCH_BYTES):
            yield slice(start, stop)
            start, total = stop, 0
        total += size
    yield slice(start, image_bytes.size)
