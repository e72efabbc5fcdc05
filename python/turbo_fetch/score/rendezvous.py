"""Where the workers of one machine find the processes of a job: sockets in a folder that only this user may enter.

Whoever finds none starts one. It is there for all others from that moment on, and ends with the last of them.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import turbo_fetch
from turbo_fetch.score.messages import FromProcess, ProcessJob, ScoreJob

PREFIX: Final = "turbo-fetch-score-"
LONGEST_PATH: Final = 90
"""Of the folder: the system takes 107 bytes for a socket in it."""
WAITING: Final = 128
"""Workers that may have connected before the process is ready for them."""
TRIES: Final = 5

if TYPE_CHECKING:
    FromWorker = Connection[Any, FromProcess]


class Rendezvous:
    """The processes of one job on this machine."""

    def __init__(self, job: ScoreJob) -> None:
        self._job = job
        name = f"{PREFIX}{job.place}"
        folder = Path(tempfile.gettempdir(), name)
        self._folder = folder if len(str(folder)) < LONGEST_PATH else Path("/tmp", name)
        self._started: list[subprocess.Popen[bytes]] = []

    def connect(self, number: int) -> FromWorker:
        """Return a connection to the process of a number, which is started if it is not there. Raises OSError."""
        for process in self._started:
            process.poll()
        path = self._folder / f"{number}.socket"
        for tries_left in reversed(range(TRIES)):
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                with suppress(FileNotFoundError, ConnectionRefusedError):
                    return _connected(path)
                with locked(self._folder):
                    with suppress(FileNotFoundError, ConnectionRefusedError):
                        return _connected(path)
                    path.unlink(missing_ok=True)
                    return self._start(path, number)
            except FileNotFoundError:
                # The last one of those who were here has just removed the folder.
                if not tries_left:
                    raise
        raise AssertionError("unreachable")

    def tidy(self) -> None:
        """Remove what processes left that were killed, those of earlier jobs too."""
        for folder in self._folder.parent.glob(f"{PREFIX}*"):
            with suppress(OSError), locked(folder):
                for path in folder.glob("*.socket"):
                    try:
                        _connected(path).close()
                    except ConnectionRefusedError:
                        path.unlink(missing_ok=True)
                folder.rmdir()

    def _start(self, path: Path, number: int) -> FromWorker:
        job = self._job
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            listening.listen(WAITING)
            process = subprocess.Popen(
                [sys.executable, "-m", "turbo_fetch.score", str(listening.fileno())],
                pass_fds=[listening.fileno()],
                stdin=subprocess.PIPE,
                env=_environment(),
            )
            # Before the socket is closed here: it is never without a listener.
            connection = _connected(path)
        self._started.append(process)
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as pipe:
            pickle.dump(
                ProcessJob(job.code, job.name, job.spec.arguments, job.spec.columns, number, str(path)), pipe
            )
        return connection


def leave(path: Path, listening: socket.socket) -> None:
    """Close the socket of this process at `path`, and remove it; nobody comes in between."""
    with suppress(OSError), locked(path.parent):
        listening.close()
        path.unlink(missing_ok=True)
        path.parent.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises FileNotFoundError if it is not there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    # Where a cluster has sent this package along, other processes need not find it by themselves.
    home = str(Path(turbo_fetch.__file__).parents[1])
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment["PYTHONPATH"] = os.pathsep.join([home, *(path for path in paths if path != home)])
    if environment.get("CUDA_VISIBLE_DEVICES") == "":
        # Ray hides all GPUs from actors that claim none, as workers are.
        del environment["CUDA_VISIBLE_DEVICES"]
    return environment


def _connected(path: Path) -> FromWorker:
    connecting = socket.socket(socket.AF_UNIX)
    try:
        connecting.connect(str(path))
    except BaseException:
        connecting.close()
        raise
    return Connection(connecting.detach())
