"""Worker processes on this machine: started, fed, watched, replaced, stopped."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Final, Protocol, cast

from turbo_fetch import errors
from turbo_fetch.plan.sharder import Shard
from turbo_fetch.runners.messages import (
    JobError,
    NoMoreShards,
    Setup,
    ShardDone,
    Stop,
    ToParent,
    ToWorker,
    WantShard,
)
from turbo_fetch.runners.stop import StopRequest
from turbo_fetch.spec import EngineSpec, FetchSpec
from turbo_fetch.tally import Tally

CORES_PER_WORKER: Final = 8
STOP_GRACE_S: Final = 10.0
TICK_S: Final = 0.25
ALLOCATOR: Final = {"MALLOC_ARENA_MAX": "2"}
"""glibc gives each thread an arena of its own otherwise, and 50 MB of freed bodies stay in them."""

FRUITLESS_DEATHS: Final = 8
"""Deaths in a row without a single row done, after which something other than a picture is at fault."""


class Listener(Protocol):
    """What the runner tells the job; called in the runner's thread."""

    def tally(self, worker: int, tally: Tally) -> None:
        """Take the progress of a worker."""

    def done(self, message: ShardDone) -> None:
        """Take a shard that is published."""

    def worker_died(self, worker: int, why: str) -> None:
        """Take note that a worker died and is replaced."""

    def tick(self) -> None:
        """Take the chance to refresh, a few times a second."""


def worker_count(engine: EngineSpec, cores: int) -> int:
    """Return how many worker processes to use on a machine of `cores` cores."""
    return math.ceil(cores / CORES_PER_WORKER) if engine.workers == "auto" else engine.workers


def thread_count(engine: EngineSpec, cores: int) -> int:
    """Return how many decoding threads each worker gets on a machine of `cores` cores."""
    return max(1, cores // worker_count(engine, cores)) if engine.threads == "auto" else engine.threads


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    connection: Connection[ToWorker, ToParent]
    shards: dict[int, Shard] = field(default_factory=dict)
    rows_done: int = 0
    said_no_more: bool = False


class LocalRunner:
    """Runs shards in worker processes; a worker that dies is replaced and its shards go on."""

    def __init__(self, fetch: FetchSpec, engine: EngineSpec, listener: Listener, stop: StopRequest) -> None:
        cores = available_cores()
        self._setup = Setup(fetch, thread_count(engine, cores))
        self._count = worker_count(engine, cores)
        self._listener = listener
        self._stop = stop
        self._workers: dict[int, _Worker] = {}
        self._orphaned: deque[Shard] = deque()
        self._fruitless_deaths = 0
        self._failure: errors.TurboFetchError | None = None

    def run(self, shards: Iterator[Shard]) -> None:
        """Run all shards.

        Raises Interrupted if stopped (all that arrived is saved), the worker's error if the job cannot go
        on, ShardFailed if workers keep dying without getting anywhere.
        """
        try:
            for number in range(self._count):
                self._start(number)
            self._supervise(shards)
        finally:
            self._kill_all()
        if self._failure is not None:
            raise self._failure
        if self._stop:
            raise errors.Interrupted("stopped by a signal; all that had arrived is saved")

    def _supervise(self, shards: Iterator[Shard]) -> None:
        kill_at = math.inf
        while self._workers:
            by_descriptor = {worker.connection.fileno(): worker for worker in self._workers.values()}
            stop = self._stop.fileno()
            for ready in cast("list[int]", wait([stop, *by_descriptor], timeout=TICK_S)):
                worker = by_descriptor.get(ready)
                if worker is not None:
                    self._receive(worker, shards)
                else:
                    self._stop.acknowledge()
                    kill_at = 0.0 if self._stop.count > 1 else self._ask_to_stop()
            if self._failure is not None and kill_at == math.inf:
                kill_at = self._ask_to_stop()
            if time.monotonic() > kill_at:
                self._kill_all()
            self._listener.tick()

    def _receive(self, worker: _Worker, shards: Iterator[Shard]) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._ended(worker)
            return
        match message:
            case WantShard():
                self._feed(worker, shards)
            case Tally():
                worker.rows_done += message.rows
                self._fruitless_deaths = 0 if message.rows else self._fruitless_deaths
                self._listener.tally(worker.number, message)
            case ShardDone():
                worker.shards.pop(message.shard, None)
                self._listener.done(message)
            case JobError():
                self._failure = getattr(errors, message.kind)(message.message)

    def _feed(self, worker: _Worker, shards: Iterator[Shard]) -> None:
        if self._stop or self._failure is not None:
            return
        try:
            shard = self._orphaned.popleft() if self._orphaned else next(shards, None)
        except errors.TurboFetchError as error:
            self._failure = error
            return
        if shard is None:
            worker.said_no_more = True
            self._send(worker, NoMoreShards())
        else:
            worker.shards[shard.id] = shard
            self._send(worker, shard)

    def _send(self, worker: _Worker, message: ToWorker) -> None:
        try:
            worker.connection.send(message)
        except OSError:
            # It just died; its end of the socket says so to the next wait.
            return

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "turbo_fetch.runners", str(theirs.fileno())]
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**ALLOCATOR, **os.environ},
            )
        worker = _Worker(number, process, Connection(ours.detach()))
        self._workers[number] = worker
        self._send(worker, self._setup)

    def _ended(self, worker: _Worker) -> None:
        worker.connection.close()
        status = worker.process.wait()
        del self._workers[worker.number]
        if self._stop or self._failure is not None or (status == 0 and not worker.shards):
            return
        self._orphaned.extend(worker.shards.values())
        self._fruitless_deaths = 0 if worker.rows_done else self._fruitless_deaths + 1
        why = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with code {status}"
        if self._fruitless_deaths >= FRUITLESS_DEATHS:
            names = ", ".join(str(shard) for shard in sorted(worker.shards)) or "none"
            self._failure = errors.ShardFailed(
                f"worker {worker.number} {why}, the {FRUITLESS_DEATHS}th time in a row that one got nowhere "
                f"(open shards: {names}); what arrived is saved"
            )
            return
        self._listener.worker_died(worker.number, why)
        self._start(worker.number)

    def _ask_to_stop(self) -> float:
        for worker in self._workers.values():
            self._send(worker, Stop())
        return time.monotonic() + STOP_GRACE_S

    def _kill_all(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()
            worker.process.wait()
            worker.connection.close()
        self._workers.clear()
