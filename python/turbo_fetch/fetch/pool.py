"""Many rows at once: a fixed number of requests in flight over all open shards.

A row is *ready* until it gets a slot. A row whose domain is busy, or wants to be left alone, is *parked*; one
that waits for its next attempt is *delayed*. Neither holds a slot, so slow hosts never hold up others. Among
the rows that could start, the one submitted first does.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from time import time
from typing import Final

from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.policy import GiveUp, Retry, next_step
from turbo_fetch.spec import HttpSpec

Done = Callable[[int, Fetched], None]

_HUNGRY_PART: Final = 4


@dataclass(frozen=True, slots=True)
class Request:
    """A row to fetch: its index in the shard, its normalised URL, and the domain that shares its limit."""

    row: int
    url: str
    domain: str


@dataclass(slots=True, order=True)
class _Row:
    """A row in the pool, ordered by submission."""

    sequence: int
    request: Request = field(compare=False)
    done: Done = field(compare=False)
    attempts: int = field(default=0, compare=False)


@dataclass(slots=True)
class _Domain:
    """What the rows of one domain share."""

    active: int = 0
    parked: list[_Row] = field(default_factory=list)
    held_until_s: float = 0.0
    """Loop time before which the domain is left alone."""
    holder: asyncio.TimerHandle | None = None


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
        self._domains: dict[str, _Domain] = {}
        self._delays: dict[int, asyncio.TimerHandle] = {}
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
            domain = self._domains.setdefault(row.request.domain, _Domain())
            if self._free_places(domain) <= 0:
                heapq.heappush(domain.parked, row)
                self.parked += 1
                continue
            domain.active += 1
            self.in_flight += 1
            return row
        return None

    def _free_places(self, domain: _Domain) -> int:
        if domain.holder is not None:
            return 0
        limit = self._http.per_domain or self._http.concurrency
        return limit - domain.active

    async def _attempt(self, row: _Row) -> None:
        row.attempts += 1
        fetched = await self._client.get(row.request.url)
        step = next_step(fetched, row.attempts, self._http, self._random.random(), time())
        self.in_flight -= 1
        self._leave_domain(row.request.domain, step)
        if isinstance(step, Retry):
            self._delay(row, step.delay_s)
        else:
            row.done(
                row.request.row, fetched if row.attempts == 1 else replace(fetched, attempts=row.attempts)
            )
        self._wake.set()

    def _leave_domain(self, name: str, step: Retry | GiveUp) -> None:
        domain = self._domains[name]
        domain.active -= 1
        match step:
            case Retry(delay_s, asked_by_server=True):
                self._hold(name, domain, delay_s)
            case GiveUp(hold_s) if hold_s > 0:
                self._hold(name, domain, hold_s)
        self._unpark(name, domain)

    def _hold(self, name: str, domain: _Domain, pause_s: float) -> None:
        """Leave a domain alone for a while."""
        loop = asyncio.get_running_loop()
        domain.held_until_s = max(domain.held_until_s, loop.time() + pause_s)
        if domain.holder is None:
            domain.holder = loop.call_at(domain.held_until_s, self._end_hold, name, domain)

    def _end_hold(self, name: str, domain: _Domain) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < domain.held_until_s:
            domain.holder = loop.call_at(domain.held_until_s, self._end_hold, name, domain)
            return
        domain.holder = None
        self._unpark(name, domain)
        self._wake.set()

    def _unpark(self, name: str, domain: _Domain) -> None:
        """Make as many parked rows ready as their domain has places, and forget a domain without rows."""
        for _ in range(min(self._free_places(domain), len(domain.parked))):
            heapq.heappush(self._returned, heapq.heappop(domain.parked))
            self.parked -= 1
        if domain.active == 0 and not domain.parked and domain.holder is None:
            del self._domains[name]

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
        for domain in self._domains.values():
            if domain.holder is not None:
                domain.holder.cancel()
        self._fresh.clear()
        self._returned.clear()
        self._domains.clear()
        self._delays.clear()
        self.in_flight = self.parked = 0
