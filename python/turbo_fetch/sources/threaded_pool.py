"""What the pools of sources have in common: threads that read for one event loop, and a queue with a bound."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.threads import AwaitedThreads


class ThreadedPool:
    """Reads in threads; belongs to one event loop. A context manager, whose end does not wait for reads that hang."""

    def __init__(self, budget: ByteBudget, threads: int, name: str) -> None:
        self.in_flight = 0
        """What is read now."""
        self._budget = budget
        self._threads = AwaitedThreads(threads, name)
        self._wake = asyncio.Event()
        self._capacity = asyncio.Event()
        self._capacity.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def wants_rows(self) -> None:
        """Wait until there is capacity."""
        await self._capacity.wait()
