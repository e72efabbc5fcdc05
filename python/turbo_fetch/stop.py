"""A request to stop that can be waited for beside sockets, and the signals that make it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from turbo_fetch.errors import Interrupted

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C, a supervisor, a terminal that was closed, and a batch system whose time limit is near."""


STOPPING_TOLD: Final = (
    "stopping: what was begun is being saved, which takes some seconds; Ctrl-C again stops at once",
    "stopping at once: what was not saved yet is done again by the next run",
)
"""What a person is told at the first request to stop, and at the second."""


class StopRequest:
    """Counts requests to stop; readable (for `select`) from the first one on.

    The first request asks for a clean end, a second one for an immediate end.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._is_open = True
        # Reentrant, since a signal handler may interrupt whoever has it.
        self._lock = threading.RLock()
        self.count = 0
        self.second_raises = False
        """Whether a second signal raises Interrupted wherever the main thread is: for what looks at requests now and
        then only, and can bear to be killed."""

    def __bool__(self) -> bool:
        return self.count > 0

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when stopping is asked for."""
        return self._read

    def ask(self) -> None:
        """Ask to stop; safe in a signal handler, from any thread, and when nobody waits for it any more."""
        self.count += 1
        with self._lock:
            if self._is_open:
                os.write(self._write, b"\0")

    def acknowledge(self) -> None:
        """Make the descriptor unreadable until the next request."""
        os.read(self._read, 4096)

    def close(self) -> None:
        """Free the descriptors, which may be those of other files from then on."""
        with self._lock:
            self._is_open = False
            os.close(self._read)
            os.close(self._write)


@contextmanager
def stop_on_signals(tell: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM, SIGHUP and SIGUSR1 into a StopRequest while the context lasts; `tell` says so at once.

    A SIGHUP that is ignored stays so: that is what `nohup` is for. In a thread other than the main one, where Python
    allows no handlers, signals stay as they are.
    """
    stop = StopRequest()
    with _teller(tell) as told:

        def handle(_number: int, _frame: FrameType | None) -> None:
            os.write(told, b"\0")
            stop.ask()
            if stop.count > 1 and stop.second_raises:
                raise Interrupted("stopped at once. Run the same command again to resume")

        before = {number: signal.signal(number, handle) for number in stopping_signals()}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            stop.close()


@contextmanager
def _teller(tell: Callable[[str], None]) -> Iterator[int]:
    """Yield a descriptor; for each of the first bytes written to it, the next sentence is told, in a thread.

    A signal handler must not print: it may have interrupted the very stream that it would print to.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def listen() -> None:
        for sentence in STOPPING_TOLD:
            if not os.read(read, 1):
                return
            # A terminal that is gone is one of the reasons to stop.
            with suppress(OSError):
                tell(sentence)

    thread = threading.Thread(target=listen, name="stop told", daemon=True)
    thread.start()
    try:
        yield write
    finally:
        os.close(write)
        thread.join()
        os.close(read)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers of these signals back at the end; cluster clients set their own when they start."""
    before = {number: signal.getsignal(number) for number in stopping_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_parent() -> None:
    """Ignore them in a process that its parent ends: terminals and supervisors send them to the whole group."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def stopping_signals() -> list[signal.Signals]:
    """Return those that this thread may set handlers for: none but in the main one, and no hang-up that is ignored."""
    if threading.current_thread() is not threading.main_thread():
        return []
    is_hangup_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in STOPPING if number != signal.SIGHUP or not is_hangup_ignored]
