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

import uvloop

from turbo_fetch import __version__
from turbo_fetch.runners.messages import Setup, ToParent, ToWorker
from turbo_fetch.runners.worker import garbage_collection_spared, work


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """What a Spark task runs: a worker that calls the driver. By the key both prove that they are of one job (HMAC)."""

    host: str
    port: int
    key: bytes

    def __call__(self, _: Iterable[int]) -> None:
        """Work until the driver has no more shards; Spark runs this once per task."""
        connection: Connection[ToParent | str, ToWorker] = Client((self.host, self.port), authkey=self.key)
        with connection:
            connection.send(__version__)
            try:
                setup = connection.recv()
            except EOFError:
                # The job is over, or the driver has told its user what is wrong.
                return
            assert isinstance(setup, Setup)
            try:
                with garbage_collection_spared():
                    uvloop.run(work(connection, setup, lambda _worker: None))
            finally:
                _hang_up(connection)


def _hang_up(connection: Connection[ToParent | str, ToWorker]) -> None:
    """End the connection for both sides: closing alone waits for the thread that reads from it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as line, suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
