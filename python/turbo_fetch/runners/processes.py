"""Worker processes of this machine, and those that are started before they are needed.

A worker takes as long to start as the parent takes to check a job. So a command that is about to run one starts its
workers first. This module imports nothing that takes time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

SETTINGS: Final = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
"""Environment of a worker. glibc gives each thread an arena of its own otherwise, and 50 MB of freed bodies stay in
them; numpy would start threads for linear algebra that nobody asks for."""


class WorkerProcess(NamedTuple):
    """A worker and the descriptor of our end of the connection to it; the worker ends when that is closed."""

    process: subprocess.Popen[bytes]
    descriptor: int


_ahead: list[WorkerProcess] = []


def start_ahead(count: int) -> None:
    """See that `count` workers are there whose job is not known yet; `start_process` hands them out first.

    For a command that is inside of `none_left_ahead`.
    """
    while len(_ahead) < count:
        _ahead.append(_start())


@contextmanager
def none_left_ahead() -> Iterator[None]:
    """End the workers in the end that were started ahead and that nobody needed, who hold nothing yet.

    They have the environment, and the folder, of the command for which they were started: no other one may get them.
    """
    try:
        yield
    finally:
        _end_ahead()


def _end_ahead() -> None:
    while _ahead:
        process, descriptor = _ahead.pop()
        process.kill()
        process.wait()
        os.close(descriptor)


def start_process() -> WorkerProcess:
    """Return a worker that waits for its Setup."""
    return _ahead.pop(0) if _ahead else _start()


def _start() -> WorkerProcess:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "turbo_fetch.runners", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**SETTINGS, **os.environ},
        )
    return WorkerProcess(process, ours.detach())
