"""The spool: the journal of one open shard, which survives `kill -9` and power loss up to a whole frame.

Nothing is synced to disk per frame: what power loss takes off the end costs only downloading it again, and
what is left is proved frame by frame (see :mod:`turbo_fetch.spool.frames`).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from turbo_fetch import _native
from turbo_fetch.arrow.schemas import RESULTS
from turbo_fetch.errors import OutputError, OutputExists
from turbo_fetch.spool import frames
from turbo_fetch.spool.batch import batch_pieces, parse_batch
from turbo_fetch.spool.index import Index
from turbo_fetch.spool.reader import sorted_batches
from turbo_fetch.storage.disk import unfinished
from turbo_fetch.storage.failures import explained, write_error

FORMAT: Final = 2
LOCK_WAIT_S: Final = 10.0
IDENTITY_BYTES: Final = 64 << 10
UNMAP_EVERY_BYTES: Final = 32 << 20

_IDENTITY: Final = 1
_BATCH: Final = 2
_INTENT: Final = 3
_OPENED: Final = 4
_CLOSED: Final = 5
_SCORES: Final = 6


class Spool:
    """The journal of one open shard. Not thread-safe: one call at a time, from any thread; calls block.

    `done` is a bool per row: whether it is in the spool. `suspects` maps each row that was in the transform
    when a process died, and has no result yet, to the number of deaths for which it is to blame: it was there
    alone, or it was the only suspect that was there in a batch of its own; 0 means that it was always in
    company. Neither is to be changed by the caller.
    """

    def __init__(self, path: Path, descriptor: int, nonce: bytes, end: int, index: Index) -> None:
        self.path = path
        self._descriptor = descriptor
        self._nonce = nonce
        self._end = end
        self._index = index

    @classmethod
    def open(
        cls,
        path: Path,
        shard: int,
        rows: int,
        rows_digest: str,
        facts: Mapping[str, Any] | None = None,
        is_there: bool = False,
    ) -> Spool:
        """Create the spool unless it `is_there`, or recover it: what follows its last whole frame is cut off.

        `facts` are kept in a spool that is created, for whoever publishes its shard; see `spool_identity`.
        Raises OutputExists if the spool is of another shard or of other rows or image options than
        `rows_digest` stands for, OutputError if it cannot be written. From a process that still holds it after 10
        seconds it is taken: who works on an output has the lease on it, so the other one is held still, and has lost
        it.
        """
        identity = {"format": FORMAT, "shard": shard, "rows": rows, "rows_digest": rows_digest}
        descriptor = _open_locked(path, 0 if is_there else os.O_CREAT)
        try:
            spool = _recover(path, descriptor, identity) or _create(
                path, descriptor, {**identity, **({"facts": facts} if facts else {})}
            )
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
        """Rows to be tried alone → deaths for which the row is to blame."""
        return self._index.suspects

    def intend(self, rows: Sequence[int]) -> None:
        """Record that `rows` enter the transform now, so that an image that kills the process is found."""
        if rows:
            self._write(_INTENT, [np.asarray(rows, np.uint32).tobytes()])
            self._index.enter(list(rows))

    def append(self, results: pa.RecordBatch) -> None:
        """Append `results` (`results_schema`, any order of rows), whole or not at all, from where they lie.

        All batches of a spool have the same columns.

        Raises ValueError for a row that is in the spool already or outside of the shard, OutputError if it
        cannot be written, for instance because the disk is full; the spool then is as it was.
        """
        if not pa.schema(list(results.schema)[: len(RESULTS)]).equals(RESULTS):
            raise ValueError(f"a spool takes batches of the schema RESULTS, got:\n{results.schema}")
        problem = self._index.problem_with(results.column("row").to_numpy())
        if problem is not None:
            raise ValueError(f"{self.path}: {problem}")
        frame = self._write(_BATCH, batch_pieces(results))
        self._index.add(frame, results)

    def append_scores(self, scores: pa.RecordBatch) -> None:
        """Append scores of rows (`spooled_schema`), or why there are none. Raises OutputError.

        All batches of a spool have the same columns; what is said of a row last counts.
        """
        self._index.add_scores(self._write(_SCORES, batch_pieces(scores)), scores)

    @property
    def to_score(self) -> npt.NDArray[np.bool_]:
        """Whether each row has an image, and no scores, be it that it was not asked, or in vain."""
        return (self._index.image_bytes > 0) & ~self._index.scored

    def scores(self) -> pa.Table | None:
        """Return what was appended so, in the order of the rows; None if there is nothing."""
        if not self._index.scores:
            return None
        with frames.Mapped(self._descriptor) as mapped:
            found = pa.Table.from_batches([parse_batch(mapped.buffer, frame) for frame in self._index.scores])
            _, last = np.unique(found.column("row").to_numpy()[::-1], return_index=True)
            return found.take(pa.array(found.num_rows - 1 - last))

    def sorted_batches(self, rows_per_batch: int = 256) -> Iterator[pa.RecordBatch]:
        """Yield the results sorted by row, in batches of at most `rows_per_batch` rows and about 16 MB.

        Images are views of the file, which is mapped, and stay valid for as long as they are referred to. The pages
        are let go of behind every batch, so that memory stays flat however large the file is.
        """
        return sorted_batches(self._descriptor, self._index, rows_per_batch)

    def close(self) -> None:
        """Close the spool and release its lock; rows in the transform bear no blame for a clean end."""
        if self._index.in_transform:
            # A full disk at the end costs only that these rows are tried alone next time.
            with suppress(OutputError):
                self._write(_CLOSED, [])
            self._index.leave()
        self._release()

    def delete(self) -> None:
        """Remove the file, unless another process took it over, and release its lock."""
        if _is_at(self.path, self._descriptor):
            # Another process may have deleted it since.
            self.path.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        # A call that comes too late must fail, not write into whatever file has the number by then.
        descriptor, self._descriptor = self._descriptor, -1
        # A mapping that images still refer to keeps the file open, and would keep the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def _write(self, kind: int, payload: Sequence[frames.Piece]) -> frames.Frame:
        if self._descriptor < 0:
            raise ValueError(f"{self.path} is closed")
        pieces, frame = frames.encode(self._nonce, self._end, kind, payload)
        try:
            _native.write_at(self._descriptor, pieces, self._end)
        except OSError as error:
            os.ftruncate(self._descriptor, self._end)
            raise write_error(error, str(self.path), frame.end - self._end) from error
        self._end = frame.end
        return frame


def spool_identity(path: Path) -> dict[str, Any] | None:
    """Return what a spool says of itself (`shard`, `rows`, `rows_digest`, maybe `facts`), None if it is no spool."""
    with path.open("rb") as file:
        head = file.read(IDENTITY_BYTES)
    if len(head) <= frames.PREAMBLE.size:
        return None
    magic, nonce = frames.PREAMBLE.unpack_from(head)
    first = next(frames.walk(memoryview(head), nonce, frames.PREAMBLE.size), None)
    if magic != frames.MAGIC or first is None or first.kind != _IDENTITY:
        return None
    identity: dict[str, Any] = orjson.loads(head[first.start : first.stop])
    return identity


def is_of_run(identity: Mapping[str, Any] | None) -> bool:
    """Return whether a spool was not begun with what a finished shard has, whose facts it would have."""
    return identity is None or "facts" not in identity


def holds_results(path: Path) -> bool:
    """Return whether a spool has a result of any row."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= frames.PREAMBLE.size:
            return False
        with frames.Mapped(file.fileno()) as mapped, memoryview(mapped.buffer) as content:
            _, nonce = frames.PREAMBLE.unpack_from(content)
            return any(frame.kind == _BATCH for frame in frames.walk(content, nonce, frames.PREAMBLE.size))


def _open_locked(path: Path, flags: int) -> int:
    """Return a descriptor of the file at `path`, created if the flags say so, that holds its exclusive lock."""
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o644)
        except OSError as error:
            raise write_error(error, str(path), 0) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have deleted the file while this process waited for it.
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            if time.monotonic() > give_up:
                _take_over(path)
            else:
                time.sleep(0.05)
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _take_over(path: Path) -> None:
    """Put a copy, which nobody holds, in the place of a file; what its holder writes from then on is nowhere."""
    copy = unfinished(path)
    with explained(str(copy)):
        shutil.copyfile(path, copy)
        copy.replace(path)


def _create(path: Path, descriptor: int, identity: dict[str, object]) -> Spool:
    nonce = os.urandom(8)
    spool = Spool(path, descriptor, nonce, frames.PREAMBLE.size, Index(int(str(identity["rows"]))))
    try:
        os.ftruncate(descriptor, 0)
        _native.write_at(descriptor, [frames.PREAMBLE.pack(frames.MAGIC, nonce)], 0)
    except OSError as error:
        raise write_error(error, str(path), frames.PREAMBLE.size) from error
    spool._write(_IDENTITY, [orjson.dumps(identity)])
    return spool


def _recover(path: Path, descriptor: int, identity: dict[str, object]) -> Spool | None:
    """Return the spool that the file holds, cut after its last whole frame; None if it holds none."""
    if os.fstat(descriptor).st_size <= frames.PREAMBLE.size:
        return None
    with frames.Mapped(descriptor) as mapped, memoryview(mapped.buffer) as content:
        magic, nonce = frames.PREAMBLE.unpack_from(content)
        found = frames.walk(content, nonce, frames.PREAMBLE.size)
        first = next(found, None) if magic == frames.MAGIC else None
        if first is None or first.kind != _IDENTITY:
            return None
        _check_identity(path, orjson.loads(content[first.start : first.stop]), identity)
        index = Index(int(str(identity["rows"])))
        end = _replay(mapped, found, index) or first.end
    os.ftruncate(descriptor, end)
    spool = Spool(path, descriptor, nonce, end, index)
    index.died()
    spool._write(_OPENED, [])
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


def _replay(mapped: frames.Mapped, found: Iterator[frames.Frame], index: Index) -> int | None:
    """Apply the frames to `index`; return where the last valid one ends, or None if there is none."""
    end, touched = None, 0
    for frame in found:
        if frame.kind == _BATCH:
            results = parse_batch(mapped.buffer, frame)
            if index.problem_with(results.column("row").to_numpy()) is not None:
                return end
            index.add(frame, results)
        elif frame.kind == _SCORES:
            index.add_scores(frame, parse_batch(mapped.buffer, frame))
        elif frame.kind == _INTENT:
            rows = np.frombuffer(mapped.buffer, np.uint32, (frame.stop - frame.start) // 4, frame.start)
            index.enter(rows.tolist())
        elif frame.kind == _OPENED:
            index.died()
        elif frame.kind == _CLOSED:
            index.leave()
        touched += frame.end - frame.start
        if touched > UNMAP_EVERY_BYTES:
            mapped.let_go()
            touched = 0
        end = frame.end
    return end
