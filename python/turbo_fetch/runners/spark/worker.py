"""A worker inside a Spark task: it calls the driver, and then works like any other.

Spark keeps its Python processes, in which functions of its users run before and afterwards: nothing of them is changed
for good, and pandas, which processes of our own do without, is left to be imported.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from typing import Final

import uvloop

from turbo_fetch import __version__
from turbo_fetch.errors import ClusterError, TurboFetchError
from turbo_fetch.runners.messages import JobError, NoMoreShards, Setup, Stop, ToParent, ToWorker
from turbo_fetch.runners.worker import garbage_collection_spared, work
from turbo_fetch.shard.other_decoders import leave_opencv_as_it_was

CONNECT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """What a Spark task runs: a worker that calls the driver. By the key both prove that they are of one run (HMAC)."""

    host: str
    port: int
    key: bytes
    wave: int
    """Number of the job that the task is of."""

    def __call__(self, partition: Iterable[int]) -> None:
        """Work until the driver dismisses this worker, or wants none; the partition is the number of the task.

        Raises ClusterError if the driver cannot be reached, or is no longer heard of: Spark starts the task again.
        """
        (task,) = partition
        self._check_reachable()
        connection: Connection[object, ToWorker] = Client((self.host, self.port), authkey=self.key)
        with connection:
            connection.send(__version__)
            connection.send((self.wave, task))
            try:
                setup = connection.recv()
            except EOFError:
                # The run is over, or the driver has told its user what is wrong.
                return
            assert isinstance(setup, Setup)
            line = _Line(connection)
            try:
                with garbage_collection_spared():
                    uvloop.run(work(line, setup, lambda _worker: None))
            except TurboFetchError as error:
                line.send(JobError(type(error).__name__, str(error)))
                return
            finally:
                is_dismissed = line.is_dismissed
                _hang_up(connection)
                leave_opencv_as_it_was()
            if not is_dismissed:
                raise ClusterError(f"{os.uname().nodename} has lost the driver at {self.host}:{self.port}")

    def _check_reachable(self) -> None:
        """Find within seconds what `Client` would wait for for minutes."""
        try:
            socket.create_connection((self.host, self.port), timeout=CONNECT_S).close()
        except OSError as error:
            raise ClusterError(
                f"{os.uname().nodename} does not reach the driver at {self.host}:{self.port} ({error}); expected "
                "spark.driver.host to be an address of the driver that executors reach, and engine.port open there"
            ) from error


class _Line:
    """The way to the driver, which notes whether the driver has said that the worker may end."""

    def __init__(self, connection: Connection[object, ToWorker]) -> None:
        self._connection = connection
        self.is_dismissed = False

    def send(self, message: ToParent, /) -> None:
        """See Channel."""
        self._connection.send(message)

    def recv(self) -> ToWorker:
        """See Channel."""
        message = self._connection.recv()
        self.is_dismissed = self.is_dismissed or isinstance(message, NoMoreShards | Stop)
        return message


def _hang_up(connection: Connection[object, ToWorker]) -> None:
    """End the connection for both sides: closing alone waits for the thread that reads from it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as line, suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
