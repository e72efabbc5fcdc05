"""Processes that tests start: each ends with its test, whatever happens there, and so disturbs no other test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from typing import Any

import psutil

_stacks: list[ExitStack] = []


@contextmanager
def ended() -> Iterator[None]:
    """End at the end of the block what :func:`start` starts in it; every test is such a block."""
    with ExitStack() as stack:
        _stacks.append(stack)
        try:
            yield
        finally:
            _stacks.remove(stack)


def start(command: Sequence[str | PathLike[str]], **options: Any) -> subprocess.Popen[str]:
    """Start a process, in text mode, that ends with the test, and all that it started too."""
    return _stacks[-1].enter_context(started(command, **options))


@contextmanager
def started(command: Sequence[str | PathLike[str]], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a process as long as the block lasts at most, such as that of a fixture of several tests."""
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill the process and its descendants, if it is still there."""
    if process.poll() is None:
        leader = psutil.Process(process.pid)
        for each in [*leader.children(recursive=True), leader]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
