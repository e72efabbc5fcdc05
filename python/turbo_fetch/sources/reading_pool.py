"""Many rows at once that are read from sources: a fixed number of reads in threads, under the budget of all bodies."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from time import time
from typing import Final

from turbo_fetch.fetch.budget import BodyReader, ByteBudget
from turbo_fetch.fetch.failures import too_large
from turbo_fetch.fetch.request import Done, Draft, Fetched
from turbo_fetch.fetch.retry_policy import Retry, next_step
from turbo_fetch.outcomes import Outcome
from turbo_fetch.redaction import redact
from turbo_fetch.sources.source import CHUNK_BYTES, Source, read_failure
from turbo_fetch.sources.threaded_pool import ThreadedPool
from turbo_fetch.spec import HttpSpec

_QUEUE_PART: Final = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """A row to read: its index in the shard, and where its bytes are."""

    row: int
    source: Source
    address: str
    start: int = 0
    stop: int | None = None
    content_type: str | None = None
    """What the address says that it holds."""
    is_shown: bool = True
    """Whether the ledger says where the bytes came from."""


@dataclass(slots=True)
class _Row:
    reading: Reading
    done: Done
    attempts: int = 0


class ReadingPool(ThreadedPool):
    """Reads rows."""

    def __init__(self, budget: ByteBudget, http: HttpSpec, concurrency: int) -> None:
        super().__init__(budget, concurrency, "sources")
        self._http = http
        self._max_bytes = int(http.max_body_mb * 1e6)
        self._concurrency = concurrency
        self._random = Random()
        self._rows: deque[_Row] = deque()
        self._delays: dict[int, asyncio.TimerHandle] = {}

    @property
    def waiting(self) -> int:
        """Rows that wait for their next attempt."""
        return len(self._delays)

    def submit(self, readings: Sequence[Reading], done: Done) -> None:
        """Take rows over; `done` is called in the loop for each, once, and owns the body, as in `FetchPool.submit`."""
        self._rows.extend(_Row(reading, done) for reading in readings)
        self._update()

    async def run(self) -> None:
        """Read rows whenever there are some, and room for their bytes, until cancelled."""
        try:
            async with asyncio.TaskGroup() as reads:
                while True:
                    while self._rows and self.in_flight < self._concurrency and self._budget.has_room:
                        self.in_flight += 1
                        reads.create_task(self._attempt(self._rows.popleft()))
                    self._update_capacity()
                    self._wake.clear()
                    if self._budget.has_room or self.in_flight >= self._concurrency:
                        await self._wake.wait()
                    else:
                        await self._budget.room()
        finally:
            for timer in self._delays.values():
                timer.cancel()
            self._rows.clear()
            self._delays.clear()

    def _update(self) -> None:
        self._update_capacity()
        self._wake.set()

    def _update_capacity(self) -> None:
        if len(self._rows) < self._concurrency - self.in_flight + self._concurrency // _QUEUE_PART + 1:
            self._capacity.set()
        else:
            self._capacity.clear()

    async def _attempt(self, row: _Row) -> None:
        row.attempts += 1
        fetched = await self._read(row.reading)
        self.in_flight -= 1
        step = next_step(fetched, row.attempts, self._http, self._random.random(), time())
        if isinstance(step, Retry):
            self._delays[id(row)] = asyncio.get_running_loop().call_later(step.delay_s, self._again, row)
        else:
            row.done(
                row.reading.row, fetched if row.attempts == 1 else replace(fetched, attempts=row.attempts)
            )
        self._update()

    def _again(self, row: _Row) -> None:
        del self._delays[id(row)]
        self._rows.appendleft(row)
        self._update()

    async def _read(self, reading: Reading) -> Fetched:
        """Make one attempt; every failure is an outcome."""
        draft = Draft(content_type=reading.content_type)
        draft.final_url = redact(reading.address) if reading.is_shown else None
        if reading.stop is not None and reading.stop - reading.start > self._max_bytes:
            return draft.end(*too_large(self._http.max_body_mb))
        reader = self._budget.reader() if reading.source.is_remote else self._budget.local_reader()
        body: bytes | None = None
        try:
            body = await self._body(reading, draft, reader)
        except Exception as error:
            return draft.end(*read_failure(error))
        finally:
            if body is None:
                reader.abandon()
            else:
                reader.finish(len(body))
        if body is None:
            return draft.end(*too_large(self._http.max_body_mb))
        return draft.end(Outcome.SUCCESS, None, body)

    async def _body(self, reading: Reading, draft: Draft, reader: BodyReader) -> bytes | None:
        """Return all bytes, None if they are more than allowed; a read that takes too long is left to its thread."""
        loop = asyncio.get_running_loop()
        chunks = reading.source.chunks(reading.address, reading.start, reading.stop)
        parts: list[bytes] = []
        while True:
            async with asyncio.timeout(self._http.timeout_s):
                chunk = await loop.run_in_executor(self._threads, next, chunks, b"")
            draft.body_bytes += len(chunk)
            if draft.body_bytes > self._max_bytes:
                return None
            reader.charge_up_to(draft.body_bytes)
            parts.append(chunk)
            if len(chunk) < CHUNK_BYTES:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            await reader.turn()
