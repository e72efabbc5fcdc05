"""Rows whose images are in a column: read in series, one after the other, under the budget of all bodies."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.failures import too_large
from turbo_fetch.fetch.request import Done, Draft
from turbo_fetch.outcomes import Outcome
from turbo_fetch.redaction import redact
from turbo_fetch.sources.columns import ImageColumn
from turbo_fetch.sources.source import read_failure
from turbo_fetch.sources.threaded_pool import ThreadedPool
from turbo_fetch.spec import HttpSpec

NO_IMAGE: Final = "no image in the column"


@dataclass(frozen=True, slots=True)
class Series:
    """Rows of one file, by their number in it, ascending, and their index in the shard."""

    file: str
    rows: tuple[tuple[int, int], ...]


class ColumnPool(ThreadedPool):
    """Reads series, one at a time: each may hold pages of a hundred megabytes."""

    def __init__(self, column: str, budget: ByteBudget, http: HttpSpec) -> None:
        super().__init__(budget, 1, "columns")
        self._column = ImageColumn(column)
        self._max_body_mb = http.max_body_mb
        self._series: deque[tuple[Series, Done]] = deque()

    def submit(self, series: Sequence[Series], done: Done) -> None:
        """Take rows over; `done` is called in the loop for each, once, and owns the body, as in `FetchPool.submit`."""
        self._series.extend((each, done) for each in series)
        self._capacity.clear()
        self._wake.set()

    async def run(self) -> None:
        """Read series, until cancelled."""
        try:
            while True:
                while not self._series:
                    self._capacity.set()
                    self._wake.clear()
                    await self._wake.wait()
                series, done = self._series.popleft()
                self.in_flight = 1
                await self._read(series, done)
                self.in_flight = 0
        finally:
            self._series.clear()

    async def _read(self, series: Series, done: Done) -> None:
        """Read one series; a failure ends all rows of it that are left."""
        loop = asyncio.get_running_loop()
        left = dict(series.rows)
        images = self._column.images(series.file, list(left))
        try:
            await self._budget.room()
            while found := await loop.run_in_executor(self._threads, next, images, None):
                for number, image in found:
                    self._end(left.pop(number), image, series, done)
                del found
                await self._budget.room()
        except Exception as error:
            failure = read_failure(error)
            for row in left.values():
                done(row, Draft().end(*failure))

    def _end(self, row: int, image: memoryview | None, series: Series, done: Done) -> None:
        draft = Draft(final_url=redact(series.file))
        if image is None:
            done(row, draft.end(Outcome.NOT_FOUND, NO_IMAGE))
            return
        draft.body_bytes = image.nbytes
        if image.nbytes > self._max_body_mb * 1e6:
            done(row, draft.end(*too_large(self._max_body_mb)))
            return
        reader = self._budget.local_reader()
        reader.charge_up_to(image.nbytes)
        reader.finish(image.nbytes)
        done(row, draft.end(Outcome.SUCCESS, None, bytes(image)))
