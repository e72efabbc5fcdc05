"""The spool: the journal of one open shard, which survives `kill -9` and power loss up to a whole frame.

Nothing is synced to disk per frame: what power loss takes off the end costs only downloading it again, and
what is left is proved frame by frame (see :mod:`turbo_fetch.frames`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch import frames
from turbo_fetch.errors import OutputError, OutputExists
from turbo_fetch.output_errors import write_error
from turbo_fetch.schema import RESULTS

FORMAT: Final = 1
LOCK_WAIT_S: Final = 10.0
OUTPUT_BATCH_BYTES: Final = 16 << 20
PARSED_FRAMES: Final = 256
UNMAP_EVERY_BYTES: Final = 32 << 20

_IDENTITY: Final = 1
_BATCH: Final = 2
_INTENT: Final = 3
_OPENED: Final = 4
_CLOSED: Final = 5

_SMALL_COLUMNS: Final = [name for name in RESULTS.names if name != "image"]


class _Index:
    """What the frames say so far: where each row is, and which rows are or were in the transform."""

    def __init__(self, rows: int) -> None:
        self.done: npt.NDArray[np.bool_] = np.zeros(rows, np.bool_)
        self.frame = np.zeros(rows, np.uint32)
        self.place = np.zeros(rows, np.uint32)
        self.image_bytes = np.zeros(rows, np.uint32)
        self.frames: list[frames.Frame] = []
        self.in_transform: set[int] = set()
        self.suspects: dict[int, int] = {}

    def problem_with(self, rows: npt.NDArray[np.uint32]) -> str | None:
        """Return why `rows` cannot be added, or None."""
        if rows.size and int(rows.max()) >= self.done.size:
            return f"row {int(rows.max())} is outside of the shard's {self.done.size} rows"
        values, counts = np.unique(rows, return_counts=True)
        again = values[(counts > 1) | self.done[values]]
        return f"rows {again[:5].tolist()} are in the spool already" if again.size else None

    def add(self, frame: frames.Frame, results: pa.RecordBatch) -> None:
        """Enter a batch, whose rows are known to be new, as the content of `frame`."""
        rows = results.column("row").to_numpy()
        self.done[rows] = True
        self.frame[rows] = len(self.frames)
        self.place[rows] = np.arange(rows.size, dtype=np.uint32)
        self.image_bytes[rows] = pc.fill_null(pc.binary_length(results.column("image")), 0).to_numpy()
        self.frames.append(frame)
        for row in rows.tolist():
            self.in_transform.discard(row)
            self.suspects.pop(row, None)

    def died(self) -> None:
        """Account for a process that ended without closing: a row alone in the transform bears the blame."""
        blame = int(len(self.in_transform) == 1)
        for row in self.in_transform:
            self.suspects[row] = self.suspects.get(row, 0) + blame
        self.in_transform.clear()


class Spool:
    """The journal of one open shard. Not thread-safe: one call at a time, from any thread; calls block.

    `done` is a bool per row: whether it is in the spool. `suspects` maps each row that was in the transform
    when a process died, and has no result yet, to the number of deaths at which it was there alone; 0 means
    that it was always in company. Neither is to be changed by the caller.
    """

    def __init__(self, path: Path, descriptor: int, nonce: bytes, end: int, index: _Index) -> None:
        self.path = path
        self._descriptor = descriptor
        self._nonce = nonce
        self._end = end
        self._index = index

    @classmethod
    def open(cls, path: Path, shard: int, rows: int, rows_digest: str) -> Spool:
        """Create the spool, or recover it: what follows its last whole frame is cut off.

        Raises OutputExists if the spool is of another shard or of other rows or image options than
        `rows_digest` stands for, OutputError if it cannot be written or another process still holds it
        after 10 seconds.
        """
        identity = {"format": FORMAT, "shard": shard, "rows": rows, "rows_digest": rows_digest}
        descriptor = _open_locked(path)
        try:
            spool = _recover(path, descriptor, identity) or _create(path, descriptor, identity)
        except BaseException:
            os.close(descriptor)
            raise
        return spool

    @property
    def done(self) -> npt.NDArray[np.bool_]:
        """Whether each row is in the spool; a live, read-only view."""
        view = self._index.done.view()
        view.flags.writeable = False
        return view

    @property
    def suspects(self) -> dict[int, int]:
        """Rows to be tried alone → deaths of the process while the row was alone in the transform."""
        return self._index.suspects

    def intend(self, rows: Sequence[int]) -> None:
        """Record that `rows` enter the transform now, so that a picture that kills the process is found."""
        self._write(_INTENT, memoryview(np.asarray(rows, np.uint32).tobytes()))
        self._index.in_transform.update(rows)

    def append(self, results: pa.RecordBatch) -> None:
        """Append `results` (:data:`RESULTS`, any order of rows), whole or not at all, in one write.

        Raises ValueError for a row that is in the spool already or outside of the shard, OutputError if it
        cannot be written, for instance because the disk is full; the spool then is as it was.
        """
        if not results.schema.equals(RESULTS):
            raise ValueError(f"a spool takes batches of the schema RESULTS, got:\n{results.schema}")
        problem = self._index.problem_with(results.column("row").to_numpy())
        if problem is not None:
            raise ValueError(f"{self.path}: {problem}")
        frame = self._write(_BATCH, memoryview(results.serialize()))
        self._index.add(frame, results)

    def sorted_batches(self, rows_per_batch: int = 256) -> Iterator[pa.RecordBatch]:
        """Yield the results sorted by row, in batches of at most `rows_per_batch` rows and about 16 MB.

        The file is mapped, and let go of behind every batch, so that memory stays flat however large it is.
        """
        rows = np.flatnonzero(self._index.done)
        if not rows.size:
            return
        with _Mapped(self._descriptor) as mapped:
            reader = _FrameReader(mapped, self._index)
            for cut in _cuts(self._index.image_bytes[rows], rows_per_batch):
                yield reader.gather(rows[cut])
                mapped.let_go()

    def close(self) -> None:
        """Close the spool and release its lock; rows in the transform bear no blame for a clean end."""
        if self._index.in_transform:
            # A full disk at the end costs only that these rows are tried alone next time.
            with suppress(OutputError):
                self._write(_CLOSED, memoryview(b""))
            self._index.in_transform.clear()
        os.close(self._descriptor)

    def delete(self) -> None:
        """Remove the file and release its lock."""
        self.path.unlink()
        os.close(self._descriptor)

    def _write(self, kind: int, payload: memoryview) -> frames.Frame:
        pieces, frame = frames.encode(self._nonce, self._end, kind, payload)
        try:
            _write_at(self._descriptor, pieces, self._end)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise write_error(error, str(self.path), frame.end - self._end) from error
        self._end = frame.end
        return frame


class _Mapped:
    """A file mapped read-only for as long as the context lasts and buffers of it are alive."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        self.buffer = pa.py_buffer(self._map)

    def __enter__(self) -> _Mapped:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Drop the pages from this process's memory; they come back from the page cache when touched."""
        self._map.madvise(mmap.MADV_DONTNEED)


class _FrameReader:
    """Gathers rows from frames of a mapped spool, keeping the latest frames parsed."""

    def __init__(self, mapped: _Mapped, index: _Index) -> None:
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
            batch = _parse(self._mapped.buffer, self._index.frames[number])
            if len(self._parsed) >= PARSED_FRAMES:
                self._parsed.pop(next(iter(self._parsed)))
        self._parsed[number] = batch
        return batch

    def _image(self, frame: int, place: int) -> memoryview | None:
        scalar = self._batch(frame).column("image")[place]
        return memoryview(scalar.as_buffer()) if scalar.is_valid else None


def _parse(content: pa.Buffer, frame: frames.Frame) -> pa.RecordBatch:
    return pa.ipc.read_record_batch(content.slice(frame.start, frame.stop - frame.start), RESULTS)


def _binary_array(values: list[memoryview | None]) -> pa.BinaryArray:
    """Return an array of `values`, copied into memory that goes back to the system when it is freed.

    Arrow's allocator was seen to keep blocks of this size: 1.5 GB after 1.5 GB of pictures went through it.
    """
    lengths = np.array([0 if value is None else value.nbytes for value in values], np.int64)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    target = mmap.mmap(-1, max(int(offsets[-1]), 1))
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


def _open_locked(path: Path) -> int:
    """Return a descriptor of the file at `path`, created if absent, that holds its exclusive lock."""
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise write_error(error, str(path), 0) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have deleted the file while this process waited for it.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            if time.monotonic() > give_up:
                os.close(descriptor)
                raise OutputError(
                    f"{path} is held by another process, still after {LOCK_WAIT_S:g} s; "
                    "expected that no other run works on this output"
                ) from None
            time.sleep(0.05)
        os.close(descriptor)


def _create(path: Path, descriptor: int, identity: dict[str, object]) -> Spool:
    nonce = os.urandom(8)
    spool = Spool(path, descriptor, nonce, frames.PREAMBLE.size, _Index(int(str(identity["rows"]))))
    try:
        os.ftruncate(descriptor, 0)
        _write_at(descriptor, [frames.PREAMBLE.pack(frames.MAGIC, nonce)], 0)
    except OSError as error:
        raise write_error(error, str(path), frames.PREAMBLE.size) from error
    spool._write(_IDENTITY, memoryview(orjson.dumps(identity)))
    return spool


def _recover(path: Path, descriptor: int, identity: dict[str, object]) -> Spool | None:
    """Return the spool that the file holds, cut after its last whole frame; None if it holds none."""
    if os.fstat(descriptor).st_size <= frames.PREAMBLE.size:
        return None
    with _Mapped(descriptor) as mapped, memoryview(mapped.buffer) as content:
        magic, nonce = frames.PREAMBLE.unpack_from(content)
        found = frames.walk(content, nonce, frames.PREAMBLE.size)
        first = next(found, None) if magic == frames.MAGIC else None
        if first is None or first.kind != _IDENTITY:
            return None
        _check_identity(path, orjson.loads(content[first.start : first.stop]), identity)
        index = _Index(int(str(identity["rows"])))
        end = _replay(mapped, found, index) or first.end
    os.ftruncate(descriptor, end)
    spool = Spool(path, descriptor, nonce, end, index)
    index.died()
    spool._write(_OPENED, memoryview(b""))
    return spool


def _check_identity(path: Path, found: dict[str, object], expected: dict[str, object]) -> None:
    differences = [
        f"{name} {found.get(name)!r}, expected {value!r}"
        for name, value in expected.items()
        if found.get(name) != value
    ]
    if differences:
        raise OutputExists(
            f"{path} holds work of another job: {'; '.join(differences)}. The list or the image options have "
            'changed since it was begun: restore them, or set fetch.output.if_exists = "overwrite"'
        )


def _replay(mapped: _Mapped, found: Iterator[frames.Frame], index: _Index) -> int | None:
    """Apply the frames to `index`; return where the last valid one ends, or None if there is none."""
    end, touched = None, 0
    for frame in found:
        if frame.kind == _BATCH:
            results = _parse(mapped.buffer, frame)
            if index.problem_with(results.column("row").to_numpy()) is not None:
                return end
            index.add(frame, results)
        elif frame.kind == _INTENT:
            rows = np.frombuffer(mapped.buffer, np.uint32, (frame.stop - frame.start) // 4, frame.start)
            index.in_transform.update(rows.tolist())
        elif frame.kind == _OPENED:
            index.died()
        elif frame.kind == _CLOSED:
            index.in_transform.clear()
        touched += frame.end - frame.start
        if touched > UNMAP_EVERY_BYTES:
            mapped.let_go()
            touched = 0
        end = frame.end
    return end


def _write_at(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int) -> None:
    """Write all pieces at `offset`: one system call, more only if the kernel takes less than all of it."""
    left = [memoryview(piece) for piece in pieces]
    while left:
        written = os.pwritev(descriptor, left, offset)
        offset += written
        while left and written >= left[0].nbytes:
            written -= left.pop(0).nbytes
        if left:
            left[0] = left[0][written:]
