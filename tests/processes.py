"""Processes that tests start: each ends with its test, whatever happens there, and so disturbs no other test.

How a test waits for what they do is here too, and how it looks at files that they change meanwhile.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import psutil

PATIENCE_S: Final = 240.0
"""That anything may take on a machine that is busy with other things; longer, and it hangs."""
PAUSE_S: Final = 0.005
LONGEST_PAUSE_S: Final = 0.5
FIRST_PORT: Final = 22_000
"""Above those that clusters take, and below those of the system, of which the first is 32,768."""
PORT_SHARES: Final = 16

_stacks: list[ExitStack] = []
_numbers = iter(random.Random(os.getpid()).sample(range(600), 600))
"""Of ports in the share of this process; each is tried once."""
_Found = TypeVar("_Found")


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
        kill(*leader.children(recursive=True), leader)


def wait_until(
    what: str,
    happened: Callable[[], _Found],
    process: subprocess.Popen[str] | None = None,
    errors: Path | None = None,
    within_s: float = PATIENCE_S,
) -> _Found:
    """Return what `happened` returns as soon as that is true; the test fails if it cannot be any more.

    That is when the process has ended, which is told with what it said, in `errors` if that is a file; or after
    `within_s`, which is told with what the process said until then, and what it and its descendants do.
    """
    ends_s = time.monotonic() + within_s
    while True:
        looked_s = time.monotonic()
        # In this order: what a process does last has happened.
        is_over = process is not None and process.poll() is not None
        if found := happened():
            return found
        if is_over:
            assert process is not None
            raise AssertionError(f"ended with {process.returncode} before {what}: {_said(process, errors)}")
        now_s = time.monotonic()
        if now_s > ends_s:
            more = "" if process is None else f"; {_said(process, errors)}; {_at_work(process)}"
            raise AssertionError(f"not within {within_s:.0f} s: {what}{more}")
        # To look at all processes takes long, and what is waited for needs the core too.
        time.sleep(min(max(PAUSE_S, 4 * (now_s - looked_s)), LONGEST_PAUSE_S))


def finished(process: subprocess.Popen[str], within_s: float = PATIENCE_S) -> tuple[str, str]:
    """Return what a process has said on both streams when it has ended; the test fails as in `wait_until`."""
    try:
        return process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired as late:
        said = [(each or b"").decode(errors="replace") for each in (late.stdout, late.stderr)]
        raise AssertionError(f"has not ended within {within_s:.0f} s: {said}; {_at_work(process)}") from None


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Return what matches below a folder in which a living process makes, renames and deletes things, in order.

    What is returned was there, and may be gone; Python's own walk fails where a folder goes while it is in it.
    """
    while True:
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(folder.glob(pattern))


def content_of(path: Path) -> bytes:
    """Return what is in a file by now that a living process writes, or nothing while it is not there."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes()
    return b""


def text_of(path: Path) -> str:
    """Return the same of a text."""
    return content_of(path).decode(errors="replace")


def lines_of(path: Path) -> list[str]:
    """Return the lines that a living process has ended by now."""
    return text_of(path).split("\n")[:-1]


def descendants(
    process: subprocess.Popen[str] | psutil.Process | None = None, word: str = ""
) -> list[psutil.Process]:
    """Return the processes below one, or below that of the test, with a word in their command line."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for each in psutil.Process(None if process is None else process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if any(word in part for part in each.cmdline()):
                    found.append(each)
    return found


def is_gone(process: psutil.Process | int) -> bool:
    """Return whether a process, or the one of a number, has ended, whether or not anybody has asked how."""
    try:
        status: str = (psutil.Process(process) if isinstance(process, int) else process).status()
    except psutil.NoSuchProcess:
        return True
    return status == psutil.STATUS_ZOMBIE


def free_port() -> int:
    """Return a port of loopback that is free, and stays so until the test has it taken.

    It is below those that the system gives to whoever asks for any, and in a share that no other worker of this
    suite takes from.
    """
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PORT_SHARES
    for port in _numbers:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", chosen := FIRST_PORT + share + port * PORT_SHARES))
            return chosen
    raise AssertionError("no port is free")


def send(number: signal.Signals, *to: psutil.Process) -> None:
    """Send a signal to processes, each of which may end by itself at the same time, or once another has got it."""
    for process in to:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def kill(*those: psutil.Process) -> None:
    """Kill processes, as :func:`send` does."""
    send(signal.SIGKILL, *those)


def _said(process: subprocess.Popen[str], errors: Path | None) -> str:
    """Return what can be read now of what a process has said and nobody has read."""
    said = [_readable(stream) for stream in (process.stdout, process.stderr) if stream is not None]
    return "\n".join([*said, *([] if errors is None else [text_of(errors)])])[-8000:] or "said nothing"


def _readable(stream: IO[str]) -> str:
    os.set_blocking(stream.fileno(), False)
    found = b""
    with suppress(BlockingIOError):
        while part := os.read(stream.fileno(), 65_536):
            found += part
    return found.decode(errors="replace")


def _at_work(process: subprocess.Popen[str]) -> str:
    """Return what a process and its descendants do."""
    told = []
    with suppress(psutil.NoSuchProcess):
        leader = psutil.Process(process.pid)
        for each in [leader, *leader.children(recursive=True)]:
            with suppress(psutil.Error):
                spent_s = sum(each.cpu_times()[:2])
                told.append(
                    f"{each.pid} {each.status()}, {spent_s:.1f} s of CPU: {' '.join(each.cmdline())[:200]}"
                )
    return "\n".join(["processes:", *told])
