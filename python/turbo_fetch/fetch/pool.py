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
from dataclasses import dataclass, replace
from http import HTTPStatus
from random import Random
from time import monotonic, time
from typing import Final

from turbo_fetch.fetch.breaker import Breaker, is_unreachable
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.domains import CLOSED_S, Domain
from turbo_fetch.fetch.failures import Failure
from turbo_fetch.fetch.fetched import Draft
from turbo_fetch.fetch.hosts import Host, origin_of
from turbo_fetch.fetch.policy import Retry, next_step, refusal_s
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

Done = Callable[[int, Fetched], None]

_HUNGRY_PART: Final = 4
LONGEST_CLOSED_S: Final = 86_400.0
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


@dataclass(slots=True, eq=False)
class _Row:
    """A row in the pool, ordered by submission."""

    sequence: int
    request: Request
    done: Done
    attempts: int = 0

    def __lt__(self, other: _Row) -> bool:
        # Heaps compare rows a dozen times each; what dataclasses generate is ten times slower.
        return self.sequence < other.sequence


class FetchPool:
    """Runs submitted rows through a client. Everything happens in one event loop."""

    def __init__(self, client: Client, http: HttpSpec, random: Random | None = None) -> None:
        self.in_flight = 0
        """Requests that hold a slot."""
        self.parked = 0
        """Rows whose domain is busy or wants to be left alone."""
        self._client = client
        self._budget = client.budget
        self._asks_hosts = client.hosts.are_asked
        self._http = http
        self._random = random or Random()
        self._submitted = 0
        self._fresh: deque[_Row] = deque()
        self._returned: list[_Row] = []
        self._domains: dict[str, Domain[_Row]] = {}
        self._delays: dict[int, asyncio.TimerHandle] = {}
        self._holds: dict[str, asyncio.TimerHandle] = {}
        self._learning: dict[str, list[_Row]] = {}
        self._breakers: dict[str, Breaker] = {}
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
        """Give the eldest row that may start a slot; put those before it aside that may not."""
        if self.in_flight >= self._http.concurrency:
            return None
        while self.ready:
            # Rows that come back were submitted before any fresh one.
            row = heapq.heappop(self._returned) if self._returned else self._fresh.popleft()
            if self._breakers and not self._host_admits(row):
                self._pass_on(row)
                continue
            domain = self._domain(row)
            if domain.is_closed:
                self._refuse(row, (Outcome.RATE_LIMITED, _CLOSED_DETAIL))
                continue
            if domain.places(self._http) <= 0:
                heapq.heappush(domain.parked, row)
                self.parked += 1
                continue
            if self._asks_hosts and not self._knows_host(row, domain):
                self._pass_on(row)
                continue
            domain.active += 1
            self.in_flight += 1
            if domain.spacing_s:
                self._space(row.request.domain, domain)
            return row
        return None

    def _domain(self, row: _Row) -> Domain[_Row]:
        name = row.request.domain
        domain = self._domains.get(name)
        if domain is None:
            preset = self._http.domains.get(name) if self._http.domains else None
            domain = self._domains[name] = Domain(preset, preset.delay_s or 0.0 if preset else 0.0)
        return domain

    def _host_admits(self, row: _Row) -> bool:
        """Whether the host of a row may be asked; if not, the row waits or ends."""
        breaker = self._breakers.get(origin_of(row.request.url))
        now_s = monotonic()
        if breaker is None or breaker.admits(now_s):
            return True
        if breaker.is_waited_for:
            self._delay(row, breaker.rests_until_s - now_s)
        else:
            outcome, detail = breaker.last
            self._refuse(row, (outcome, f"{detail}; the host was given up"))
        return False

    def _knows_host(self, row: _Row, domain: Domain[_Row]) -> bool:
        """Whether the rules of a row's host are known, or the row may go and learn them; else it waits."""
        origin = origin_of(row.request.url)
        host = self._client.hosts.known(origin)
        if host is None:
            waiting = self._learning.get(origin)
            if waiting is not None:
                waiting.append(row)
                self.parked += 1
                return False
            self._learning[origin] = []
        else:
            self._set_pace(domain, host)
        return True

    def _set_pace(self, domain: Domain[_Row], host: Host) -> None:
        """Obey the Crawl-delay of a host, as far as is sensible, unless the spec says otherwise."""
        asked_s = host.rules.robots.crawl_delay_s if host.rules.robots is not None else None
        if asked_s and (domain.preset is None or domain.preset.delay_s is None):
            domain.spacing_s = min(asked_s, self._http.max_backoff_s)

    def _pass_on(self, row: _Row) -> None:
        """Let another row of a domain have the place that a row was called for and does not take."""
        domain = self._domains.get(row.request.domain)
        if domain is not None and domain.parked:
            self._unpark(row.request.domain, domain)

    def _space(self, name: str, domain: Domain[_Row]) -> None:
        domain.is_spaced = True
        self._holds[f"{name} pace"] = asyncio.get_running_loop().call_later(
            domain.spacing_s, self._end_spacing, name
        )

    def _end_spacing(self, name: str) -> None:
        del self._holds[f"{name} pace"]
        domain = self._domains[name]
        domain.is_spaced = False
        self._unpark(name, domain)
        self._wake.set()

    async def _attempt(self, row: _Row) -> None:
        if self._learning:
            await self._learn_host(row)
        row.attempts += 1
        fetched = await self._client.get(row.request.url, row.request.headers, row.request.domain)
        now_s = time()
        step = next_step(fetched, row.attempts, self._http, self._random.random(), now_s)
        self.in_flight -= 1
        self._note_host(row, fetched)
        self._leave_domain(row.request.domain, fetched, now_s)
        if isinstance(step, Retry):
            self._delay(row, step.delay_s)
        else:
            row.done(
                row.request.row, fetched if row.attempts == 1 else replace(fetched, attempts=row.attempts)
            )
        self._wake.set()

    async def _learn_host(self, row: _Row) -> None:
        """Ask the host of a row for its rules, if they are not known, and let go the rows that wait for them."""
        origin = origin_of(row.request.url)
        if origin not in self._learning:
            return
        try:
            host = await self._client.hosts.learn(origin)
            domain = self._domains[row.request.domain]
            self._set_pace(domain, host)
            if domain.spacing_s and not domain.is_spaced:
                self._space(row.request.domain, domain)
        finally:
            waiting = self._learning.pop(origin, ())
            self.parked -= len(waiting)
            # In front of the fresh rows, where they came from; a heap would cost more than all else here.
            self._fresh.extendleft(reversed(waiting))
            self._wake.set()

    def _note_host(self, row: _Row, fetched: Fetched) -> None:
        """Keep the books of the hosts that cannot be reached."""
        if is_unreachable(fetched):
            origin = origin_of(row.request.url)
            failure = (fetched.outcome, fetched.detail or "")
            breaker = self._breakers.get(origin)
            if breaker is None:
                breaker = self._breakers[origin] = Breaker(failure)
            breaker.failed(failure, monotonic())
        elif self._breakers and fetched.http_status is not None:
            self._breakers.pop(origin_of(row.request.url), None)

    def _leave_domain(self, name: str, fetched: Fetched, now_s: float) -> None:
        domain = self._domains[name]
        domain.active -= 1
        pause_s = refusal_s(fetched, now_s)
        if pause_s is not None:
            was_closed = domain.is_closed
            hold_s = domain.refused(pause_s, self._http)
            loop = asyncio.get_running_loop()
            if hold_s is not None:
                self._holds[name] = loop.call_later(hold_s, self._end_hold, name)
            elif domain.is_closed and not was_closed:
                closed_s = min(max(pause_s, CLOSED_S), LONGEST_CLOSED_S)
                self._holds[f"{name} closed"] = loop.call_later(closed_s, self._reopen, name)
        elif fetched.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
            domain.overloaded(self._http)
        elif fetched.http_status is not None:
            domain.answered(self._http, fetched.first_byte_ms)
        self._unpark(name, domain)

    def _end_hold(self, name: str) -> None:
        del self._holds[name]
        domain = self._domains[name]
        domain.is_held = False
        self._unpark(name, domain)
        self._wake.set()

    def _reopen(self, name: str) -> None:
        del self._holds[f"{name} closed"]
        self._domains[name].reopen()

    def _unpark(self, name: str, domain: Domain[_Row]) -> None:
        """Make as many parked rows ready as their domain has places, and forget a domain without rows."""
        places = len(domain.parked) if domain.is_closed else domain.places(self._http)
        for _ in range(min(places, len(domain.parked))):
            heapq.heappush(self._returned, heapq.heappop(domain.parked))
            self.parked -= 1
        if domain.is_idle:
            del self._domains[name]

    def _refuse(self, row: _Row, failure: Failure) -> None:
        """End a row without another request."""
        refused = Draft().end(*failure)
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
        self._learning.clear()
        self._breakers.clear()
        self.in_flight = self.parked = 0
