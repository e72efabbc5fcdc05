"""All that a worker reads from sources, as one pool."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.request import Done
from turbo_fetch.sources.column_pool import ColumnPool, Series
from turbo_fetch.sources.reading_pool import Reading, ReadingPool
from turbo_fetch.spec import FetchSpec


class SourcePools:
    """The pools of a job's sources; a context manager. `done` is called as by `FetchPool.submit`."""

    def __init__(self, fetch: FetchSpec, budget: ByteBudget) -> None:
        self._readings = ReadingPool(budget, fetch.http, fetch.sources.concurrency)
        column = fetch.input.image_column
        self._columns = None if column is None else ColumnPool(column, budget, fetch.http)
        self._pools = [pool for pool in (self._readings, self._columns) if pool is not None]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for pool in self._pools:
            self._stack.enter_context(pool)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def in_flight(self) -> int:
        """What is read now."""
        return sum(pool.in_flight for pool in self._pools)

    @property
    def waiting(self) -> int:
        """Rows that wait for their next attempt."""
        return self._readings.waiting

    async def wants_rows(self) -> None:
        """Wait until there is capacity."""
        for pool in self._pools:
            await pool.wants_rows()

    def submit(self, readings: Sequence[Reading], series: Sequence[Series], done: Done) -> None:
        """Take rows over."""
        if readings:
            self._readings.submit(readings, done)
        if series and self._columns is not None:
            self._columns.submit(series, done)

    async def run(self) -> None:
        """Read whatever is there, until cancelled."""
        async with asyncio.TaskGroup() as running:
            for pool in self._pools:
                running.create_task(pool.run())
