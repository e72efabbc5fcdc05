"""Workers all over a Spark cluster: the tasks of one job, which call the driver and are fed by it.

Spark starts a task again, elsewhere, whose executor is lost; to the driver that is a worker that died and a new one.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from multiprocessing.connection import Listener as Socket
from queue import SimpleQueue
from typing import Any, Final

from turbo_fetch import __version__
from turbo_fetch.errors import ClusterError, MissingExtra, ShardFailed, TurboFetchError
from turbo_fetch.runners.driver import Driver, portable
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.spark.worker import WorkerTask
from turbo_fetch.runners.supervisor import Listener
from turbo_fetch.runners.worker_connections import WorkerConnections
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import EngineSpec, FetchSpec
from turbo_fetch.stop import StopRequest, handlers_kept

try:
    from pyspark import InheritableThread, SparkContext
    from pyspark.sql import SparkSession
except ModuleNotFoundError as error:
    raise MissingExtra("pyspark", "spark", 'engine.kind = "spark"') from error

GROUP: Final = "turbo-fetch"
CONNECT_S: Final = 8.0

_LACKS: Final = ("ModuleNotFoundError", "importlib.metadata.PackageNotFoundError")


class SparkRunner:
    """Runs shards in the tasks of a Spark job."""

    def __init__(self, fetch: FetchSpec, engine: EngineSpec, listener: Listener, stop: StopRequest) -> None:
        self._driver = Driver(fetch, listener)
        self._engine = engine
        self._stop = stop
        self._callers: SimpleQueue[Connection[Any, Any]] = SimpleQueue()
        self._job: _Job

    def run(self, tasks: Iterator[ShardTask]) -> None:
        """Run all shards; raises ClusterError if the cluster cannot do this job, otherwise as
        `WorkerConnections.run`."""
        connections = WorkerConnections(
            self, map(portable, tasks), self._driver, self._stop, self._driver.http, self._driver.documents
        )
        with _session(self._engine.address) as context, _listening(context, self._callers) as worker_task:
            self._driver.begin()
            self._job = _Job(context, worker_task, _tasks(context, self._engine))
            try:
                self._supervise(connections, _threads(context, self._engine))
            finally:
                connections.close()
                self._job.end()
                self._driver.close()
        self._driver.end(connections.supervisor.failure, self._stop)

    def why_gone(self, number: int) -> str | None:
        """See WorkerProcesses. Spark knows why, the driver only whether shards are left open."""
        return None

    def replace(self, number: int) -> None:
        """See WorkerProcesses. Spark starts the task again by itself."""

    def kill(self) -> None:
        """See WorkerProcesses. The job is cancelled when the run ends."""

    def _supervise(self, connections: WorkerConnections, threads: int) -> None:
        number = 0
        kill_at = math.inf
        while not (self._job.is_over and connections.is_empty):
            while not self._callers.empty():
                self._welcome(self._callers.get(), connections, number, threads)
                number += 1
            kill_at = connections.step(kill_at)
            if (
                connections.supervisor.stopping or connections.supervisor.failure is not None
            ) and connections.is_empty:
                return
        if connections.supervisor.has_work:
            connections.supervisor.failure = self._job.failure()

    def _welcome(
        self, caller: Connection[Any, Any], connections: WorkerConnections, number: int, threads: int
    ) -> None:
        try:
            version = caller.recv()
        except (EOFError, OSError):
            version = None
        if (
            version == __version__
            and not connections.supervisor.stopping
            and connections.supervisor.failure is None
        ):
            connections.add(number, caller, self._driver.setup(threads))
            return
        caller.close()
        if version not in {None, __version__}:
            connections.supervisor.failure = ClusterError(
                f"an executor has turbo-fetch {version}, the driver has {__version__}; expected the same everywhere"
            )


class _Job:
    """The Spark job, in a thread that waits for it."""

    def __init__(self, context: SparkContext, worker_task: WorkerTask, tasks: int) -> None:
        self._context = context
        self._error: Exception | None = None
        self._thread = InheritableThread(target=self._run, args=(worker_task, tasks), name="spark job")
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def failure(self) -> TurboFetchError:
        """Return what to tell of a job that ended too early."""
        reason = cause_in(str(self._error or "its tasks ended"))
        if reason.startswith(_LACKS):
            return ClusterError(
                f"an executor lacks a package: {reason}; expected turbo-fetch {__version__} and all that it needs on "
                "every executor: set PYSPARK_PYTHON to a Python that has them, or ship one with spark.archives"
            )
        return ShardFailed(
            f"the Spark job ended before all shards were done: {reason}; what arrived is saved"
        )

    def end(self) -> None:
        """Cancel what is left of the job and wait for its end."""
        if not self.is_over:
            self._context.cancelJobGroup(GROUP)
        self._thread.join()

    def _run(self, worker_task: WorkerTask, tasks: int) -> None:
        self._context.setJobGroup(GROUP, f"turbo-fetch: {tasks} workers", interruptOnCancel=True)
        try:
            self._context.parallelize(range(tasks), tasks).foreachPartition(worker_task)
        # Spark and py4j raise what has no common base; it is told if the shards are not done.
        except Exception as error:
            self._error = error


@contextmanager
def _session(master: str | None) -> Iterator[SparkContext]:
    """Yield the context of the session that is there, or of a new one, which ends with the context."""
    existing = SparkSession.getActiveSession()
    if existing is not None:
        yield existing.sparkContext
        return
    builder = SparkSession.builder.appName("turbo-fetch").config("spark.ui.showConsoleProgress", "false")
    if master is not None:
        builder = builder.master(master)
        if master.startswith("local"):
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        _check_reachable(master or "")
        with handlers_kept():
            session = builder.getOrCreate()
    # No Java, no master, a bad address: each has an exception of its own.
    except Exception as error:
        raise ClusterError(
            f"no Spark at {master or 'the configured master'}: {' '.join(str(error).split())[:500]}; expected Java 17 "
            "or later and a master that runs"
        ) from error
    try:
        yield session.sparkContext
    finally:
        session.stop()


def _check_reachable(master: str) -> None:
    """Raise OSError if nothing listens at any master of `spark://host:port,host:port`; Spark would try for minutes."""
    addresses = re.findall(r"(?:^spark://|,)([^,:]+):(\d+)", master)
    for number, (host, port) in enumerate(addresses):
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except OSError:
            if number == len(addresses) - 1:
                raise
        else:
            return


@contextmanager
def _listening(context: SparkContext, callers: SimpleQueue[Connection[Any, Any]]) -> Iterator[WorkerTask]:
    """Take the calls of workers into `callers` while the context lasts."""
    host = context.getConf().get("spark.driver.host", "127.0.0.1")
    bind = context.getConf().get("spark.driver.bindAddress", host)
    assert host is not None
    assert bind is not None
    key = secrets.token_bytes(32)
    # The backlog is for all the tasks of a large cluster that begin at once.
    with Socket((bind, 0), backlog=1024, authkey=key) as door:

        def accept() -> None:
            while True:
                try:
                    callers.put(door.accept())
                except (AuthenticationError, EOFError, ConnectionError):
                    continue
                except OSError:
                    return

        threading.Thread(target=accept, name="door", daemon=True).start()
        yield WorkerTask(host, door.address[1], key)


def _tasks(context: SparkContext, engine: EngineSpec) -> int:
    return context.defaultParallelism if engine.workers == "auto" else engine.workers


def _threads(context: SparkContext, engine: EngineSpec) -> int:
    """Return the decoding threads of a worker: the cores that Spark gives to a task, unless the spec says more."""
    if engine.threads != "auto":
        return engine.threads
    return int(context.getConf().get("spark.task.cpus", "1") or 1)
