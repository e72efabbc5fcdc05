"""Worker processes on this machine: started, fed, watched, replaced, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from multiprocessing.connection import Connection

from turbo_fetch.dataset import names
from turbo_fetch.dataset.lease import claim_on
from turbo_fetch.dataset.place import open_place
from turbo_fetch.fetch.proxies import Proxies
from turbo_fetch.runners.cpu_allocation import available_cores, thread_count, worker_count
from turbo_fetch.runners.messages import Setup
from turbo_fetch.runners.processes import start_process
from turbo_fetch.runners.supervisor import Listener
from turbo_fetch.runners.worker_connections import WorkerConnections
from turbo_fetch.score.messages import ScoreJob
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import EngineSpec, FetchSpec
from turbo_fetch.stop import StopRequest


class LocalRunner:
    """Runs shards in worker processes; a worker that dies is replaced and its shards go on."""

    def __init__(self, fetch: FetchSpec, engine: EngineSpec, listener: Listener, stop: StopRequest) -> None:
        cores = available_cores()
        self._count = worker_count(engine, cores)
        proxies = Proxies.of(fetch.http.proxy, os.environ)
        storage = open_place(fetch.output.path, fetch.output.spool)
        self._documents = storage.make_work() / names.DOCUMENTS
        self._setup = Setup(
            fetch,
            thread_count(engine, cores),
            shares_limits=self._count > 1,
            claim=claim_on(storage),
            proxies=proxies,
            score=None if fetch.score is None else ScoreJob.of(fetch.score),
        )
        self._listener = listener
        self._stop = stop
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._connections: WorkerConnections

    def run(self, tasks: Iterator[ShardTask]) -> None:
        """Run all shards; raises as `WorkerConnections.run`."""
        http = self._setup.fetch.http
        self._connections = WorkerConnections(self, tasks, self._listener, self._stop, http, self._documents)
        for number in range(self._count):
            self.replace(number)
        self._connections.run()

    def replace(self, number: int) -> None:
        """Start a process."""
        process, descriptor = start_process()
        self._processes[number] = process
        self._connections.add(number, Connection(descriptor), self._setup)

    def why_gone(self, number: int) -> tuple[str | None, signal.Signals | None]:
        """See WorkerProcesses."""
        status = self._processes.pop(number).wait()
        if status < 0:
            by = signal.Signals(-status)
            return f"was ended by {by.name}", by
        return (f"ended with code {status}" if status else None), None

    def kill(self) -> None:
        """See WorkerProcesses."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()
