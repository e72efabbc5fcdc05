"""Worker processes on this machine: started, fed, watched, replaced, stopped."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Final, cast

from turbo_fetch import errors
from turbo_fetch.plan.sharder import Shard
from turbo_fetch.runners.messages import Setup, Stop, ToParent, ToWorker
from turbo_fetch.runners.stop import StopRequest
from turbo_fetch.runners.supervisor import Listener, Supervisor
from turbo_fetch.spec import EngineSpec, FetchSpec

CORES_PER_WORKER: Final = 8
STOP_GRACE_S: Final = 10.0
TICK_S: Final = 0.25
ALLOCATOR: Final = {"MALLOC_ARENA_MAX": "2"}
"""glibc gives each thread an arena of its own otherwise, and 50 MB of freed bodies stay in them."""


def worker_count(engine: EngineSpec, cores: int) -> int:
    """Return how many worker processes to use on a machine of `cores` cores."""
    return math.ceil(cores / CORES_PER_WORKER) if engine.workers == "auto" else engine.workers


def thread_count(engine: EngineSpec, cores: int) -> int:
    """Return how many decoding threads each worker gets on a machine of `cores` cores."""
    return max(1, cores // worker_count(engine, cores)) if engine.threads == "auto" else engine.threads


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Worker:
    number: int
    process: subprocess.Popen[bytes]
    connection: Connection[ToWorker, ToParent]


class LocalRunner:
    """Runs shards in worker processes; a worker that dies is replaced and its shards go on."""

    def __init__(self, fetch: FetchSpec, engine: EngineSpec, listener: Listener, stop: StopRequest) -> None:
        cores = available_cores()
        self._setup = Setup(fetch, thread_count(engine, cores))
        self._count = worker_count(engine, cores)
        self._listener = listener
        self._stop = stop
        self._workers: dict[int, _Worker] = {}

    def run(self, shards: Iterator[Shard]) -> None:
        """Run all shards.

        Raises Interrupted if stopped (all that arrived is saved), the worker's error if the job cannot go
        on, ShardFailed if workers keep dying without getting anywhere.
        """
        supervisor = Supervisor(shards, self._listener)
        try:
            for number in range(self._count):
                self._start(number, supervisor)
            self._supervise(supervisor)
        finally:
            self._kill_all()
        if supervisor.failure is not None:
            raise supervisor.failure
        if self._stop:
            raise errors.Interrupted("stopped by a signal; all that had arrived is saved")

    def _supervise(self, supervisor: Supervisor) -> None:
        kill_at = math.inf
        while self._workers:
            by_descriptor = {worker.connection.fileno(): worker for worker in self._workers.values()}
            stop = self._stop.fileno()
            for ready in cast("list[int]", wait([stop, *by_descriptor], timeout=TICK_S)):
                worker = by_descriptor.get(ready)
                if worker is not None:
                    self._receive(worker, supervisor)
                else:
                    self._stop.acknowledge()
                    supervisor.stopping = True
                    kill_at = 0.0 if self._stop.count > 1 else self._ask_to_stop()
            if supervisor.failure is not None and kill_at == math.inf:
                kill_at = self._ask_to_stop()
            if time.monotonic() > kill_at:
                self._kill_all()
            self._listener.tick()

    def _receive(self, worker: _Worker, supervisor: Supervisor) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._ended(worker, supervisor)
            return
        answer = supervisor.answer(worker.number, message)
        if answer is not None:
            self._send(worker, answer)

    def _send(self, worker: _Worker, message: ToWorker) -> None:
        try:
            worker.connection.send(message)
        except OSError:
            # It just died; its end of the socket says so to the next wait.
            return

    def _start(self, number: int, supervisor: Supervisor) -> None:
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
        supervisor.started(number)
        self._send(worker, self._setup)

    def _ended(self, worker: _Worker, supervisor: Supervisor) -> None:
        worker.connection.close()
        status = worker.process.wait()
        del self._workers[worker.number]
        if supervisor.ended(worker.number, _why(status)):
            self._start(worker.number, supervisor)

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


def _why(status: int) -> str | None:
    """Say how a process ended, None if well."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with code {status}" if status else None
