"""A worker's way to the function: batches in, columns out; whatever the function does, only its own rows fail.

A batch for which the function raises, ends the process or never returns is halved, until the images are found that it
is about. A function that fails for all images ends the run instead: also for one that it has scored before.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Queue
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from turbo_fetch import errors
from turbo_fetch.arrow.score_types import spooled_schema
from turbo_fetch.errors import ScoringFailed
from turbo_fetch.score.messages import (
    FromProcess,
    NotReady,
    Raised,
    Ready,
    Scored,
    ScoreJob,
    Suspended,
    YourTurn,
)
from turbo_fetch.score.rendezvous import Rendezvous

if TYPE_CHECKING:
    from turbo_fetch.score.rendezvous import FromWorker

FAILURES_TO_DOUBT: Final = 8
"""Images in a row that fail, after which it is asked whether any would not."""
LOST_BEFORE_TURN: Final = 20
"""Times that the process may be gone before it takes a batch: those of other workers may have ended it."""
LOST_BEFORE_READY: Final = 3
LOOK_EVERY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there are no scores for a batch."""

    what: str
    trace: str = ""


class Scorer:
    """The function, for the threads of one worker, of which each has a process of its own at a time."""

    def __init__(self, job: ScoreJob, is_stopping: Callable[[], bool]) -> None:
        self.job = job
        self._schema = spooled_schema(job.spec.columns)
        self._is_closed = False
        self._rendezvous = Rendezvous(job)
        # In turns, so that all are busy.
        self._idle: Queue[_Process] = Queue()
        for number in range(job.spec.processes):
            self._idle.put(
                _Process(
                    self._rendezvous, number, job.spec.timeout_s, lambda: self._is_closed or is_stopping()
                )
            )
        self._lock = threading.Lock()
        self._good: pa.Buffer | None = None
        """An image that has scores."""
        self._failures = 0
        """Images in a row that failed."""
        self._verdict: str | None = None
        """Why it is of no use to go on."""

    def make_ready(self) -> None:
        """See that the function can be called; raises as `scores`, unless the run is being stopped."""
        process = self._idle.get()
        try:
            process.connected()
        except Suspended:
            pass
        finally:
            self._idle.put(process)

    def scores(self, rows: pa.Array, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the scores of a batch of samples, as a spool has them; blocks. `rows` are their places in the shard.

        Raises Suspended, ScoringFailed if it is of no use to go on, SpecError if there is no such function.
        """
        answer = self._ask(_packed(batch))
        if isinstance(answer, pa.RecordBatch):
            with self._lock:
                self._failures = 0
                if self._good is None:
                    self._good = _packed(batch.slice(0, 1))
            columns = [pa.nulls(len(rows), pa.string()), *answer.columns]
            return pa.RecordBatch.from_arrays([rows, *columns], schema=self._schema)
        if len(rows) > 1:
            half = len(rows) // 2
            parts = [(rows[:half], batch.slice(0, half)), (rows[half:], batch.slice(half))]
            return pa.concat_batches([self.scores(*part) for part in parts])
        self._doubt(answer)
        lacking = [pa.nulls(1, field.type) for field in list(self._schema)[2:]]
        return pa.RecordBatch.from_arrays([rows, pa.array([answer.what]), *lacking], schema=self._schema)

    def close(self) -> None:
        """Leave the processes, which end if no other worker of this machine is there."""
        self._is_closed = True
        while not self._idle.empty():
            self._idle.get().close()
        self._rendezvous.tidy()

    def _ask(self, batch: pa.Buffer) -> pa.RecordBatch | Fault:
        process = self._idle.get()
        try:
            return process.ask(batch)
        finally:
            self._idle.put(process)

    def _doubt(self, fault: Fault) -> None:
        """Raise ScoringFailed if the function fails, as far as can be told, for every image."""
        with self._lock:
            self._failures += 1
            if self._verdict is not None:
                raise ScoringFailed(self._verdict)
            if self._failures < FAILURES_TO_DOUBT:
                return
            self._failures = 0
            good = self._good
        again = fault if good is None else self._ask(good)
        if isinstance(again, Fault):
            seen = "for every image so far" if good is None else "also for an image that it has scored before"
            trace = f"\n{again.trace}" if again.trace else ""
            self._verdict = f"fetch.score.function = {self.job.spec.function!r} {again.what}, {seen}{trace}"
            raise ScoringFailed(self._verdict)


def _packed(batch: pa.RecordBatch) -> pa.Buffer:
    """Return a batch as an Arrow IPC stream, a copy of what may lie in a file that is mapped."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue()


class _Process:
    """The process of a number, for one thread at a time; another one where it died."""

    def __init__(
        self, rendezvous: Rendezvous, number: int, timeout_s: float, is_stopping: Callable[[], bool]
    ) -> None:
        self._rendezvous = rendezvous
        self._number = number
        self._timeout_s = timeout_s
        self._is_stopping = is_stopping
        self._connection: FromWorker | None = None
        self._pid = 0

    def close(self) -> None:
        """Leave it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ask(self, batch: pa.Buffer) -> pa.RecordBatch | Fault:
        """Return the columns, or why there are none; raises Suspended, and what keeps the function from being ready."""
        connection = self._at_its_turn()
        try:
            connection.send_bytes(batch)
            answer = self._heard(connection, self._timeout_s)
        except TimeoutError:
            self._kill()
            return Fault(f"did not return within {self._timeout_s:g} s")
        except (EOFError, OSError):
            self.close()
            return Fault("ended the process")
        except Suspended:
            # Nobody else is to wait for it either.
            self._kill()
            raise
        if isinstance(answer, Raised):
            return Fault(answer.what, answer.trace)
        assert isinstance(answer, Scored)
        with pa.ipc.open_stream(answer.columns) as stream:
            return stream.read_next_batch()

    def _at_its_turn(self) -> FromWorker:
        """Return the connection when the process takes our batch, and no other one before it."""
        for _ in range(LOST_BEFORE_TURN):
            connection = self.connected()
            try:
                connection.send(None)
                if isinstance(self._heard(connection), YourTurn):
                    return connection
            except (EOFError, OSError):
                # It died of what another worker gave it.
                self.close()
        raise ScoringFailed("the process of fetch.score.function dies again and again; what arrived is saved")

    def connected(self) -> FromWorker:
        """Return the connection to the process, whose function is ready. Raises as `ask`."""
        if self._connection is not None:
            return self._connection
        for _ in range(LOST_BEFORE_READY):
            try:
                connection = self._rendezvous.connect(self._number)
            except OSError as error:
                raise ScoringFailed(
                    f"the process of fetch.score.function cannot be started: {error}"
                ) from error
            try:
                greeting = self._heard(connection)
            except (EOFError, OSError):
                connection.close()
                continue
            except BaseException:
                connection.close()
                raise
            if isinstance(greeting, NotReady):
                connection.close()
                raise errors.named(greeting.error, greeting.message)
            assert isinstance(greeting, Ready)
            self._connection, self._pid = connection, greeting.pid
            return connection
        raise ScoringFailed(
            "the process of fetch.score.function ends before the function is ready; what it says is above, and where "
            "memory is short the system ends it without a word"
        )

    def _heard(self, connection: FromWorker, most_s: float | None = None) -> FromProcess:
        """Return what the process says; raises TimeoutError, Suspended, EOFError or OSError if it is gone."""
        started_s = time.monotonic()
        while not connection.poll(LOOK_EVERY_S):
            if self._is_stopping():
                raise Suspended
            if most_s is not None and time.monotonic() - started_s > most_s:
                raise TimeoutError
        heard: FromProcess = connection.recv()
        return heard

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self.close()
