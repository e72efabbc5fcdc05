"""Reads the rows of a spool in order, at flat memory, from frames in which they stand in any order."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from turbo_fetch import frames
from turbo_fetch.schema import RESULTS
from turbo_fetch.spool_index import Index

OUTPUT_BATCH_BYTES: Final = 16 << 20
PARSED_FRAMES: Final = 256

_HUGE_PAGES: Final = getattr(mmap, "MADV_HUGEPAGE", None)
"""Linux has them, unless its kernel was built without; the advice then fails, which does no harm."""

_SMALL_COLUMNS: Final = [name for name in RESULTS.names if name != "image"]


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


def parse_batch(content: pa.Buffer, frame: frames.Frame) -> pa.RecordBatch:
    """Return the batch in `frame`, whose buffers are views of `content`."""
    return pa.ipc.read_record_batch(content.slice(frame.start, frame.stop - frame.start), RESULTS)


class _FrameReader:
    """Gathers rows from frames of a mapped spool, keeping the latest frames parsed."""

    def __init__(self, mapped: frames.Mapped, index: Index) -> None:
        self._mapped = mapped
        self._index = index
        self._parsed: dict[int, pa.RecordBatch] = {}

    def gather(self, rows: npt.NDArray[np.intp]) -> pa.RecordBatch:
        """Return one batch of `rows` in the order given; image bytes are copied once, in that order."""
        which, where = self._index.frame[rows], self._index.place[rows]
        order = np.argsort(which, kind="stable")
        parts = [
            self._batch(int(which[group[0]])).select(_SMALL_COLUMNS).take(pa.array(where[group]))
            for group in np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
        ]
        back = np.empty(order.size, np.int64)
        back[order] = np.arange(order.size)
        small = pa.concat_batches(parts).take(pa.array(back))
        images = [
            self._image(frame, place) for frame, place in zip(which.tolist(), where.tolist(), strict=True)
        ]
        columns = [*small.columns, _binary_array(images)]
        names = [*_SMALL_COLUMNS, "image"]
        return pa.RecordBatch.from_arrays(
            [columns[names.index(name)] for name in RESULTS.names], schema=RESULTS
        )

    def _batch(self, number: int) -> pa.RecordBatch:
        batch = self._parsed.pop(number, None)
        if batch is None:
            batch = parse_batch(self._mapped.buffer, self._index.frames[number])
            if len(self._parsed) >= PARSED_FRAMES:
                self._parsed.pop(next(iter(self._parsed)))
        self._parsed[number] = batch
        return batch

    def _image(self, frame: int, place: int) -> memoryview | None:
        scalar = self._batch(frame).column("image")[place]
        return memoryview(scalar.as_buffer()) if scalar.is_valid else None


def _binary_array(values: list[memoryview | None]) -> pa.BinaryArray:
    """Return an array of `values`, copied into memory that goes back to the system when it is freed.

    Arrow's allocator was seen to keep blocks of this size: 1.5 GB after 1.5 GB of pictures went through it. In small
    pages, half of the time was spent on page faults.
    """
    lengths = np.array([0 if value is None else value.nbytes for value in values], np.int64)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    target = mmap.mmap(-1, max(int(offsets[-1]), 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _HUGE_PAGES is not None:
        with suppress(OSError):
            target.madvise(_HUGE_PAGES)
    for start, value in zip(offsets.tolist(), values, strict=False):
        if value is not None:
            target[start : start + value.nbytes] = value
    valid = np.packbits([value is not None for value in values], bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer(offsets), pa.py_buffer(target)]
    return pa.BinaryArray.from_buffers(pa.binary(), len(values), buffers)


def _cuts(image_bytes: npt.NDArray[np.uint32], most_rows: int) -> Iterator[slice]:
    start, total = 0, 0
    for stop, size in enumerate(image_bytes.tolist()):
        if stop > start and (stop - start >= most_rows or total + size > OUTPUT_BATCH_BYTES):
            yield slice(start, stop)
            start, total = stop, 0
        total += size
    yield slice(start, image_bytes.size)
