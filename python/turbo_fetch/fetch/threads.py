"""Threads whose work an event loop awaits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class AwaitedThreads(ThreadPoolExecutor):
    """Threads in which StopIteration is a RuntimeError, as it is in generators (PEP 479).

    A future of asyncio does not take it: whoever awaited that would wait for ever.
    """

    def submit(self, work: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> Future[T]:
        """See Executor."""
        return super().submit(_done, work, *args, **named)


def _done(work: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> T:
    try:
        return work(*args, **named)
    except StopIteration as error:
        raise RuntimeError("work in a thread raised StopIteration") from error
