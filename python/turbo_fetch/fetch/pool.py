"""Many rows at once: a fixed number of requests in flight over all open shards.

A row is *ready* until it gets a slot. A row whose domain is busy, or wants to be left alone, is *parked*; one
that waits for its next attempt is *delayed*. Neither holds a slot, so slow hosts never hold up others. Among
the rows that could start, the one submitted first does.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from time import time
from typing import Final

from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.domains import Domain
from turbo_fetch.fetch.fetched import Draft
from turbo_fetch.fetch.policy import Retry, next_step, refusal_s
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

Done = Callable[[int, Fetched], None]

_HUNGRY_PART: Final = 4
_CLOSED_DETAIL: Final = "not asked, the server refuses requests"


@dataclass(frozen=True, slots=True)
class Request:
    """A row to fetch: its index in the shard, its normalised URL, and the domain that shares its limit.

    `headers` are sent besides those of the client.
    """

    row: int
    url: str
    domain: str
    headers: Mapping[str, str] | None = None


@dataclass(slots=True, order=True)
class _Row:
    """A row in the pool, ordered by submission."""

    sequence: int
    request: Request = field(compare=False)
    done: Done = field(compare=False)
    attempts: int = field(default=0, compare=False)


class FetchPool:
    """Runs submitted rows through a client. Everything happens in one event loop."""

    def __init__(self, client: Client, http: HttpSpec, random: Random | None = None) -> None:
        self.in_flight = 0
        """Requests that hold a slot."""
        self.parked = 0
        """Rows whose domain is busy or wants to be left alone."""
        self._client = client
        self._budget = client.budget
        self._http = http
        self._random = random or Random()
        self._submitted = 0
        self._fresh: deque[_Row] = deque()
        self._returned: list[_Row] = []
        self._domains: dict[str, Domain[_Row]] = {}
        self._delays: dict[int, asyncio.TimerHandle] = {}
        self._holds: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._hunger = asyncio.Event()
        self._hunger.set()

    @property
    def ready(self) -> int:
        """Rows that wait for a slot."""
        return len(self._fresh) + len(self._returned)

    @property
    def delayed(self) -> int:
        """Rows that wait for their next attempt."""
        return len(self._delays)

    @property
    def hungry(self) -> bool:
        """Whether more rows are welcome: slots are about to be empty, and there is memory for bodies."""
        wanted = self._http.concurrency - self.in_flight + self._http.concurrency // _HUNGRY_PART
        return self.ready < wanted and self._budget.has_room

    async def wants_rows(self) -> None:
        """Wait until the pool is hungry."""
        await self._hunger.wait()

    def submit(self, requests: Sequence[Request], done: Done) -> None:
        """Take rows over; `done` is called in the loop for each, once, in the order in which they end.

        `done` owns the body, if there is one, and releases it from the client's budget.
        """
        for request in requests:
            self._fresh.append(_Row(self._submitted, request, done))
            self._submitted += 1
        self._feel_hunger()
        self._wake.set()

    async def run(self) -> None:
        """Start requests whenever there are slots, rows and room, until cancelled.

        Rows that are in the pool at that time are forgotten, and their `done` is not called.
        """
        try:
            async with asyncio.TaskGroup() as requests:
                while True:
                    row = self._take() if self._budget.has_room else None
                    if row is not None:
                        requests.create_task(self._attempt(row))
                        continue
                    self._feel_hunger()
                    self._wake.clear()
                    if self._budget.has_room:
                        await self._wake.wait()
                    else:
                        await self._budget.room()
        finally:
            self._forget_all()

    def _feel_hunger(self) -> None:
        if self.hungry:
            self._hunger.set()
        else:
            self._hunger.clear()

    def _take(self) -> _Row | None:
        """Give the eldest row that may start a slot; park those before it whose domain may not be asked."""
        if self.in_flight >= self._http.concurrency:
            return None
        while self.ready:
            # Rows that come back were submitted before any fresh one.
            row = heapq.heappop(self._returned) if self._returned else self._fresh.popleft()
            domain = self._domains.get(row.request.domain)
            if domain is None:
                domain = self._domains[row.request.domain] = Domain()
            if domain.is_closed:
                self._refuse(row)
                continue
            if domain.places(self._http) <= 0:
                heapq.heappush(domain.parked, row)
                self.parked += 1
                continue
            domain.active += 1
            self.in_flight += 1
            return row
        return None

    async def _attempt(self, row: _Row) -> None:
        row.attempts += 1
        fetched = await self._client.get(row.request.url, row.request.headers, row.request.domain)
        now_s = time()
        step = next_step(fetched, row.attempts, self._http, self._random.random(), now_s)
        self.in_flight -= 1
        self._leave_domain(row.request.domain, fetched, now_s)
        if isinstance(step, Retry):
            self._delay(row, step.delay_s)
        else:
            row.done(
                row.request.row, fetched if row.attempts == 1 else replace(fetched, attempts=row.attempts)
            )
        self._wake.set()

    def _leave_domain(self, name: str, fetched: Fetched, now_s: float) -> None:
        domain = self._domains[name]
        domain.active -= 1
        pause_s = refusal_s(fetched, now_s)
        if pause_s is not None:
            hold_s = domain.refused(pause_s, self._http)
            if hold_s is not None:
                self._holds[name] = asyncio.get_running_loop().call_later(hold_s, self._end_hold, name)
        elif fetched.http_status is not None:
            domain.answered()
        self._unpark(name, domain)

    def _end_hold(self, name: str) -> None:
        del self._holds[name]
        domain = self._domains[name]
        domain.is_held = False
        self._unpark(name, domain)
        self._wake.set()

    def _unpark(self, name: str, domain: Domain[_Row]) -> None:
        """Make as many parked rows ready as their domain has places, and forget a domain without rows."""
        places = len(domain.parked) if domain.is_closed else domain.places(self._http)
        for _ in range(min(places, len(domain.parked))):
            heapq.heappush(self._returned, heapq.heappop(domain.parked))
            self.parked -= 1
        if domain.is_idle:
            del self._domains[name]

    def _refuse(self, row: _Row) -> None:
        """End a row without another request, because its server is closed."""
        refused = Draft().end(Outcome.RATE_LIMITED, _CLOSED_DETAIL)
        row.done(row.request.row, replace(refused, attempts=row.attempts))

    def _delay(self, row: _Row, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._delays[row.sequence] = loop.call_later(delay_s, self._end_delay, row)

    def _end_delay(self, row: _Row) -> None:
        del self._delays[row.sequence]
        heapq.heappush(self._returned, row)
        self._wake.set()

    def _forget_all(self) -> None:
        for timer in self._delays.values():
            timer.cancel()
        for timer in self._holds.values():
            timer.cancel()
        self._fresh.clear()
        self._returned.clear()
        self._domains.clear()
        self._delays.clear()
        self._holds.clear()
        self.in_flight = self.parked = 0
