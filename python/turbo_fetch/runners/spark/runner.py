"""Workers all over a Spark cluster: the tasks of a few jobs, which call the driver and are fed by it.

Spark starts a task again, elsewhere, whose executor is lost; to the driver that is a worker that died and a new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from multiprocessing.connection import Connection
from queue import SimpleQueue
from random import uniform
from signal import Signals
from time import monotonic
from typing import Any, Final

from turbo_fetch import __version__
from turbo_fetch.errors import ClusterError
from turbo_fetch.runners.driver import Driver
from turbo_fetch.runners.spark.door import Call, open_door
from turbo_fetch.runners.spark.session import driver_address, session, threads
from turbo_fetch.runners.spark.waves import Waves
from turbo_fetch.runners.supervisor import Listener
from turbo_fetch.runners.waiting import Waiting
from turbo_fetch.runners.worker_connections import WorkerConnections
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import EngineSpec, FetchSpec
from turbo_fetch.stop import StopRequest

TASK_S: Final = (1200.0, 1800.0)
"""How long a task takes shards, between the two: so that not all end at once."""

_Place = tuple[int, int]
"""A task of Spark: numbers of its job and of itself. Of several copies of it one works at a time."""


class SparkRunner:
    """Runs shards in tasks of Spark."""

    def __init__(self, fetch: FetchSpec, engine: EngineSpec, listener: Listener, stop: StopRequest) -> None:
        self._driver = Driver(fetch, listener)
        self._engine = engine
        self._stop = stop
        self._waiting = Waiting(listener.note, stop)
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self._places: dict[int, _Place] = {}
        self._retires_s: dict[int, float] = {}
        self._copies: list[tuple[_Place, Connection[Any, Any]]] = []
        self._next_number = 0
        self._waves: Waves
        self._connections: WorkerConnections

    def run(self, tasks: Iterator[ShardTask]) -> None:
        """Run all shards; raises ClusterError if the cluster cannot do this job, otherwise as
        `WorkerConnections.run`."""
        self._connections = WorkerConnections(
            self,
            map(self._driver.portable, tasks),
            self._driver,
            self._stop,
            self._driver.http,
            self._driver.documents,
        )
        with (
            session(self._engine.address) as context,
            open_door(*driver_address(context), self._engine.port, self._calls) as door,
        ):
            self._driver.begin()
            self._waves = Waves(context, door)
            try:
                self._supervise(context.defaultParallelism, threads(context, self._engine))
            finally:
                self._connections.close()
                self._waves.end(self._dismiss)
                self._driver.close()
        self._driver.end(self._connections.supervisor.failure, self._stop)

    def why_gone(self, number: int) -> tuple[str | None, Signals | None]:
        """See WorkerProcesses. Spark knows why, the driver only whether shards are left open."""
        return None, None

    def replace(self, number: int) -> None:
        """See WorkerProcesses. Spark starts the task again by itself, unless a copy of it is here already."""
        wave, task = self._places[number]
        if wave in self._waves.running:
            self._waves.running[wave].waiting.add(task)

    def kill(self) -> None:
        """See WorkerProcesses. The jobs are cancelled when the run ends."""

    def _supervise(self, cores: int, threads_each: int) -> None:
        supervisor = self._connections.supervisor
        kill_at = math.inf
        while supervisor.has_work or not self._connections.is_empty:
            if supervisor.has_work:
                supervisor.failure = self._waves.failure(supervisor.rows_done)
            self._welcome_copies(threads_each)
            while not self._calls.empty():
                self._answer(self._calls.get(), threads_each)
            if supervisor.has_work:
                self._submit(cores)
            self._tell_wait()
            self._retire()
            kill_at = self._connections.step(kill_at)

    def _submit(self, cores: int) -> None:
        """Have tasks wait for cores: all that are missing, or as many again as work, for executors that join."""
        waiting, working = self._waves.waiting, len(self._connections)
        if self._engine.workers != "auto":
            size = self._engine.workers - working - waiting
        else:
            size = 0 if waiting else max(cores, working)
        if size > 0:
            self._waves.submit(size, self._connections.supervisor.rows_done)

    def _answer(self, call: Call, threads_each: int) -> None:
        """Take on who calls, if a worker is of use; a task that is told nothing ends."""
        supervisor = self._connections.supervisor
        place = (call.wave, call.task)
        if call.version != __version__:
            call.connection.close()
            supervisor.failure = ClusterError(
                f"an executor has turbo-fetch {call.version}, the driver has {__version__}; expected the same "
                "everywhere"
            )
        elif self._is_taken(place):
            # If it ended now, Spark would take the task for done, and end the one that works (spark.speculation).
            self._copies.append((place, call.connection))
        elif supervisor.has_work and not self._is_crowded():
            self._welcome(place, call.connection, threads_each)
        else:
            self._vacate(place)
            call.connection.close()

    def _is_taken(self, place: _Place) -> bool:
        return any(self._places[number] == place for number in self._connections.numbers)

    def _is_crowded(self) -> bool:
        workers = self._engine.workers
        return workers != "auto" and len(self._connections) >= workers

    def _welcome(self, place: _Place, connection: Connection[Any, Any], threads_each: int) -> None:
        self._vacate(place)
        number = self._next_number
        self._next_number += 1
        self._places[number] = place
        self._retires_s[number] = monotonic() + uniform(*TASK_S)
        self._connections.add(number, connection, self._driver.setup(threads_each))

    def _vacate(self, place: _Place) -> None:
        wave, task = place
        if wave in self._waves.running:
            self._waves.running[wave].waiting.discard(task)

    def _welcome_copies(self, threads_each: int) -> None:
        """Let a copy of a task work when the one before it was lost; where that is done, it is of no use."""
        for copy in list(self._copies):
            (wave, task), connection = copy
            if self._is_taken((wave, task)):
                continue
            self._copies.remove(copy)
            is_waited_for = wave in self._waves.running and task in self._waves.running[wave].waiting
            if is_waited_for and self._connections.supervisor.has_work:
                self._welcome((wave, task), connection, threads_each)
            else:
                connection.close()

    def _dismiss(self) -> None:
        """Let tasks end that wait to be of use."""
        for _, connection in self._copies:
            connection.close()
        self._copies.clear()
        while not self._calls.empty():
            self._calls.get().connection.close()

    def _retire(self) -> None:
        """Let workers end that have worked for long enough; the next ones wait for their cores."""
        now_s = monotonic()
        for number in self._connections.numbers:
            if now_s >= self._retires_s.get(number, math.inf):
                del self._retires_s[number]
                self._connections.supervisor.retire(number)

    def _tell_wait(self) -> None:
        if self._connections.is_empty and self._connections.supervisor.has_work:
            self._waiting.tell(
                "Spark to begin a task: its master has no free cores for this application yet, or none of its "
                "executors has started"
            )
        else:
            self._waiting.over()
