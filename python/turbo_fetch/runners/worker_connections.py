"""Workers behind connections: given shards, watched, stopped."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from signal import Signals
from typing import Final, Protocol, cast

from turbo_fetch.errors import Interrupted
from turbo_fetch.runners.messages import Setup, Stop, ToParent, ToWorker
from turbo_fetch.runners.supervisor import TICK_S, Listener, Supervisor
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import HttpSpec
from turbo_fetch.stop import StopRequest

STOP_GRACE_S: Final = 10.0
_CUT_OFF: Final = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
"""What the system says of a connection on which nothing arrives any more: the other end may be alive."""


class WorkerProcesses(Protocol):
    """The processes behind the connections."""

    def why_gone(self, number: int) -> tuple[str | None, Signals | None]:
        """Say how a worker ended whose connection is closed, None if well, and by which signal, if by one."""

    def replace(self, number: int) -> None:
        """Start another worker in the place of one that is gone."""

    def kill(self) -> None:
        """End all that are left, at once."""


class WorkerConnections:
    """The connections of a runner's workers. `add` is called in the thread of `run`, or before it."""

    def __init__(
        self,
        processes: WorkerProcesses,
        tasks: Iterator[ShardTask],
        listener: Listener,
        stop: StopRequest,
        http: HttpSpec,
        documents: Path,
    ) -> None:
        self.supervisor = Supervisor(tasks, listener, http, documents)
        self._processes = processes
        self._listener = listener
        self._stop = stop
        self._connections: dict[int, Connection[ToWorker, ToParent]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no worker is connected."""
        return not self._connections

    @property
    def numbers(self) -> tuple[int, ...]:
        """The workers that are connected."""
        return tuple(self._connections)

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, number: int, connection: Connection[ToWorker, ToParent], setup: Setup) -> None:
        """Take a worker on."""
        self._connections[number] = connection
        self.supervisor.started(number)
        self._send(connection, setup)

    def run(self) -> None:
        """Run until no worker is left.

        Raises Interrupted if stopped (all that arrived is saved), the worker's error if the job cannot go on,
        ShardFailed if workers keep dying without getting anywhere.
        """
        kill_at = math.inf
        try:
            while not self.is_empty:
                kill_at = self.step(kill_at)
        finally:
            self.close()
        if self.supervisor.failure is not None:
            raise self.supervisor.failure
        if self._stop:
            raise Interrupted("stopped by a signal; all that had arrived is saved")

    def step(self, kill_at: float) -> float:
        """Wait a moment for messages and deal with them; return the time at which workers are to be killed."""
        by_descriptor = {each.fileno(): number for number, each in self._connections.items()}
        stop = self._stop.fileno()
        for ready in cast("list[int]", wait([stop, *by_descriptor], timeout=TICK_S)):
            if ready != stop:
                self._receive(by_descriptor[ready])
                continue
            self._stop.acknowledge()
            self.supervisor.stopping = True
            kill_at = 0.0 if self._stop.count > 1 else self._ask_to_stop()
        for number, message in self.supervisor.pending_messages():
            if number in self._connections:
                self._send(self._connections[number], message)
        if self.supervisor.failure is not None and kill_at == math.inf:
            kill_at = self._ask_to_stop()
        if time.monotonic() > kill_at:
            self.close()
        self._listener.tick()
        return kill_at

    def close(self) -> None:
        """End all workers that are left."""
        self._processes.kill()
        self.supervisor.close()
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _receive(self, number: int) -> None:
        connection = self._connections[number]
        try:
            message = connection.recv()
        except (EOFError, OSError) as error:
            connection.close()
            del self._connections[number]
            is_cut_off = isinstance(error, OSError) and error.errno in _CUT_OFF
            if is_cut_off:
                self._listener.note(f"worker {number} does not answer any more; others resume its shards")
            why, by = self._processes.why_gone(number)
            if self.supervisor.ended(number, why, not is_cut_off, by):
                self._processes.replace(number)
            return
        self.supervisor.take(number, message)

    def _send(self, connection: Connection[ToWorker, ToParent], message: ToWorker) -> None:
        # One that just died says so to the next wait.
        with suppress(OSError):
            connection.send(message)

    def _ask_to_stop(self) -> float:
        for connection in self._connections.values():
            self._send(connection, Stop())
        return time.monotonic() + STOP_GRACE_S
