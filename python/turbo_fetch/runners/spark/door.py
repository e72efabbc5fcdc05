"""The door of the driver: tasks of Spark call there, prove that they are of this run, and say which task they are."""

from __future__ import annotations

import os
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from multiprocessing.connection import Listener as Socket
from queue import SimpleQueue
from typing import Any, Final

from turbo_fetch import __version__
from turbo_fetch.errors import ClusterError
from turbo_fetch.runners.spark.worker import WorkerTask

BACKLOG: Final = 1024
"""For all the tasks of a large cluster that begin at once."""
GREETING_S: Final = 30
"""How long a caller may take to say who it is."""
SILENCE_S: Final = 45
"""After so long without an acknowledgement of what was sent, an executor is taken to be cut off: TCP alone would wait
for a quarter of an hour."""


@dataclass(frozen=True, slots=True)
class Call:
    """A task that has called."""

    connection: Connection[Any, Any]
    version: str
    wave: int
    task: int


@dataclass(frozen=True, slots=True)
class Door:
    """Where tasks call."""

    host: str
    port: int
    key: bytes

    def task_of(self, wave: int) -> WorkerTask:
        """Return what the tasks of a job run."""
        return WorkerTask(self.host, self.port, self.key, wave)


@contextmanager
def open_door(host: str, bind: str, port: int, calls: SimpleQueue[Call]) -> Iterator[Door]:
    """Take the calls of tasks into `calls` while the context lasts; raises ClusterError if the port cannot be had."""
    key = secrets.token_bytes(32)
    try:
        listener = Socket((bind, port), backlog=BACKLOG)
    except OSError as error:
        raise ClusterError(
            f"workers cannot call this machine at {bind}:{port or '(any port)'}: {error.strerror or error}; expected "
            "spark.driver.bindAddress, or spark.driver.host without it, to be an address of this machine, and "
            "engine.port to be free"
        ) from error
    with listener:

        def accept() -> None:
            while True:
                try:
                    connection = listener.accept()
                except ConnectionError:
                    continue
                except OSError:
                    return
                # One that stays silent must not keep others waiting.
                threading.Thread(
                    target=_greet, args=(connection, key, calls), name="greeting", daemon=True
                ).start()

        threading.Thread(target=accept, name="door", daemon=True).start()
        yield Door(host, listener.address[1], key)


def _greet(connection: Connection[Any, Any], key: bytes, calls: SimpleQueue[Call]) -> None:
    """Hear who calls; whoever cannot prove it, or says nothing, is hung up on."""
    try:
        _be_patient(connection, GREETING_S)
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        version = connection.recv()
        # What else another version says is not known.
        wave, task = connection.recv() if version == __version__ else (-1, -1)
        _be_patient(connection, 0)
    except (AuthenticationError, EOFError, OSError):
        connection.close()
    else:
        calls.put(Call(connection, version, wave, task))


def _be_patient(connection: Connection[Any, Any], seconds: int) -> None:
    """Wait for so long for what is read, 0 for ever; and no longer than SILENCE_S for what is sent to arrive."""
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000)
