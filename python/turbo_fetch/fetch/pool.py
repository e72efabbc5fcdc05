"""Many rows at once: a fixed number of requests in flight over all open shards.

A row is *ready* until it gets a slot. A row whose domain is busy, or wants to be left alone, is *parked*; one
that waits for its next attempt is *delayed*. Neither holds a slot, so slow hosts never hold up others. Among
the rows that could start, the one submitted first does.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from time import monotonic, time
from typing import Final

from turbo_fetch.causes import GIVEN_UP
from turbo_fetch.fetch.allocations import DeadHost, Grant
from turbo_fetch.fetch.breaker import Breakers, is_unreachable
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.domains import Domain, Domains
from turbo_fetch.fetch.failures import Failure
from turbo_fetch.fetch.limiter_client import LimiterClient
from turbo_fetch.fetch.network import Network
from turbo_fetch.fetch.origins import origin_of
from turbo_fetch.fetch.request import Done, Draft, Hop, Request, Row
from turbo_fetch.fetch.retry_policy import Retry, next_step
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

_QUEUE_PART: Final = 4
_STARTS_AT_ONCE: Final = 16
"""Requests that start before the loop looks at those under way: the first are sent while others still connect."""
_CLOSED_DETAIL: Final = "not asked, the server refuses requests"


class FetchPool:
    """Runs submitted rows through a client. Everything happens in one event loop.

    With a `limiter`, rows start when the parent of all workers has answered what it says of them.
    """

    def __init__(
        self,
        client: Client,
        http: HttpSpec,
        random: Random | None = None,
        limiter: LimiterClient | None = None,
    ) -> None:
        self.in_flight = 0
        """Requests that hold a slot."""
        self._client = client
        self._budget = client.budget
        self._asks_hosts = client.hosts.are_asked
        self._http = http
        self._random = random or Random()
        self._limiter = limiter
        self._domains = Domains(http, self._return, limiter)
        self._submitted = 0
        self._announced: deque[tuple[int, list[Row]]] = deque()
        self._fresh: deque[Row] = deque()
        self._returned: list[Row] = []
        self._delays: dict[int, asyncio.TimerHandle] = {}
        self._awaiting_rules: dict[str, list[Row]] = {}
        self._breakers = Breakers()
        self.network = Network(client.witnesses, self)
        self._is_paused = False
        self.is_last = False
        """Whether no further rows will be submitted."""
        self._wake = asyncio.Event()
        self._capacity = asyncio.Event()
        self._capacity.set()

    @property
    def ready(self) -> int:
        """Rows that wait for a slot."""
        return len(self._fresh) + len(self._returned) + sum(len(rows) for _, rows in self._announced)

    @property
    def parked(self) -> int:
        """Rows whose domain is busy or wants to be left alone, or whose host is asked for its rules."""
        return self._domains.parked + sum(map(len, self._awaiting_rules.values()))

    @property
    def delayed(self) -> int:
        """Rows that wait for their next attempt."""
        return len(self._delays)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way, and no row could start."""
        return not (self.in_flight or self.ready or self.delayed or self.parked)

    @property
    def has_capacity(self) -> bool:
        """Whether more rows are welcome: slots are about to be empty, and there is memory for bodies."""
        wanted = self._http.concurrency - self.in_flight + self._http.concurrency // _QUEUE_PART
        return self.ready < wanted and self._budget.has_room

    async def wants_rows(self) -> None:
        """Wait until there is capacity."""
        await self._capacity.wait()

    def submit(self, requests: Sequence[Request], done: Done) -> None:
        """Take rows over; `done` is called in the loop for each, once, in the order in which they end.

        `done` owns the body, if there is one, and releases it from the client's budget.
        """
        rows = [Row(number, request, done) for number, request in enumerate(requests, self._submitted)]
        self._submitted += len(rows)
        demand = None
        if self._limiter is not None:
            demand = self._limiter.announce(request.domain for request in requests)
        if demand is None:
            self._fresh.extend(rows)
        else:
            self._announced.append((demand, rows))
        self._update_capacity()
        self._wake.set()

    def withdraw(self, done: Done, count: int) -> bool:
        """Forget the rows that were submitted with `done`, `count` in all, unless one has begun; return whether so."""
        announced = (rows for _, rows in self._announced)
        queues = (self._fresh, self._returned, *announced, *self._awaiting_rules.values())
        waiting = [row for rows in (*queues, *self._domains.queues()) for row in rows if row.done is done]
        if len(waiting) != count or any(row.attempts for row in waiting):
            return False
        self._fresh = deque(row for row in self._fresh if row.done is not done)
        for rows in (self._returned, *(rows for _, rows in self._announced), *self._awaiting_rules.values()):
            rows[:] = [row for row in rows if row.done is not done]
        heapq.heapify(self._returned)
        self._domains.withdraw(done)
        if self._limiter is not None:
            for row in waiting:
                self._limiter.row_ended(row.request.domain)
        self._update_capacity()
        self._wake.set()
        return True

    def expect_no_more(self) -> None:
        """Take note that no further rows will be submitted."""
        self.is_last = True
        self._wake.set()

    def pause(self, is_paused: bool) -> None:
        """Start no request until told otherwise."""
        if self._is_paused and not is_paused:
            self._wake.set()
        self._is_paused = is_paused

    def apply_grant(self, grant: Grant) -> None:
        """Obey what the parent of all workers says; there is a limiter."""
        assert self._limiter is not None
        for dead in grant.dead_hosts.values():
            self._breakers.of(dead.origin, (dead.outcome, dead.detail)).heard(monotonic())
        self._domains.apply(grant, self._limiter)
        while self._announced and self._limiter.has_answer(self._announced[0][0]):
            self._fresh.extend(self._announced.popleft()[1])
        self._wake.set()

    async def run(self) -> None:
        """Start requests whenever there are slots, rows and room, until cancelled.

        Rows that are in the pool at that time are forgotten, and their `done` is not called.
        """
        started = 0
        try:
            async with asyncio.TaskGroup() as requests:
                requests.create_task(self.network.watch())
                while True:
                    row = self._take() if self._budget.has_room else None
                    if row is not None:
                        requests.create_task(self._attempt(row))
                        started += 1
                        if not started % _STARTS_AT_ONCE:
                            await asyncio.sleep(0)
                        continue
                    self._update_capacity()
                    self._wake.clear()
                    if self._budget.has_room:
                        await self._wake.wait()
                    else:
                        await self._budget.room()
        finally:
            self._clear()

    def _update_capacity(self) -> None:
        if self.has_capacity:
            self._capacity.set()
        else:
            self._capacity.clear()

    def _take(self) -> Row | None:
        """Give the eldest row that may start a slot; put those before it aside that may not."""
        if self.in_flight >= self._http.concurrency:
            return None
        if self._is_paused or (self.network.is_down and not self.network.may_one_ask()):
            return None
        while self._fresh or self._returned:
            # Rows that come back were submitted before any fresh one.
            row = heapq.heappop(self._returned) if self._returned else self._fresh.popleft()
            if self._breakers and not self._may_ask_host(row):
                self._domains.pass_on(row.domain)
                continue
            domain = self._domains.domain(row.domain)
            if domain.is_closed:
                self._refuse(row, (Outcome.RATE_LIMITED, _CLOSED_DETAIL))
            elif domain.permits(self._http) <= 0:
                self._domains.park(row)
            elif not self._asks_hosts or self._has_rules(row, domain):
                self.in_flight += 1
                self._domains.begin(row.domain, domain)
                return row
        return None

    def _may_ask_host(self, row: Row) -> bool:
        """Whether the host of a row may be asked; if not, the row waits or ends."""
        breaker = self._breakers.get(origin_of(row.address))
        now_s = monotonic()
        if breaker is None or breaker.admits(now_s):
            return True
        if breaker.is_waited_for:
            self._delay(row, breaker.cooldown_ends_s - now_s)
        else:
            outcome, detail = breaker.last
            self._refuse(row, (outcome, f"{detail}{GIVEN_UP}"))
        return False

    def _has_rules(self, row: Row, domain: Domain) -> bool:
        """Whether the rules of a row's host let it start, or it may go and learn them; else it waits."""
        origin = origin_of(row.address)
        host = self._client.hosts.known(origin)
        if host is not None:
            if not host.crawl_delay_s:
                return True
            self._domains.set_min_interval(row.domain, host.crawl_delay_s)
            if domain.permits(self._http) > 0:
                return True
            self._domains.park(row)
            return False
        waiting = self._awaiting_rules.get(origin)
        if waiting is None:
            self._awaiting_rules[origin] = []
            return True
        waiting.append(row)
        self._domains.pass_on(row.domain)
        return False

    async def _attempt(self, row: Row) -> None:
        name = row.domain
        if self._awaiting_rules:
            await self._learn_rules(row)
        if not self._domains.start(name):
            self.in_flight -= 1
            self._domains.park(row)
            self._domains.give_up(name)
            self._wake.set()
            return
        request, hop = row.request, row.hop
        row.attempts += hop is None
        begun = self.network.begin()
        ended = await self._client.step(request.url, request.headers, request.domain, hop)
        while isinstance(ended, Hop) and self._may_follow(name, ended):
            ended = await self._client.step(request.url, request.headers, request.domain, ended)
        fetched = ended.draft.end(Outcome.REDIRECT, None) if isinstance(ended, Hop) else ended
        now_s = time()
        self.in_flight -= 1
        judged = row.of_host(fetched)
        is_held = self.network.ended(row, fetched, begun)
        # What took long because the network was gone says nothing of the host.
        if not self.network.is_judged(begun):
            judged = replace(judged, first_byte_ms=None)
        self._domains.end(name, judged, now_s)
        if is_held:
            row.attempts -= 1
        elif isinstance(ended, Hop):
            self._go_on(row, ended)
        else:
            self._follow_up(row, fetched, now_s)
        self._wake.set()

    def _may_follow(self, name: str, hop: Hop) -> bool:
        """Whether a redirect may be followed at once: it leads to the same host, whose domain allows it."""
        return origin_of(hop.address) == origin_of(hop.led_by or "") and self._domains.may_follow(name)

    def _go_on(self, row: Row, hop: Hop) -> None:
        """Let a row wait for its turn at the host that a redirect leads to, where its next request counts."""
        self._come_back(row)
        row.hop = hop
        demand = None if self._limiter is None else self._limiter.announce([hop.domain])
        if demand is None:
            self._return(row)
        else:
            self._announced.append((demand, [row]))

    def _come_back(self, row: Row) -> None:
        """Let the next request of a row be that of the list again."""
        if row.hop is not None and self._limiter is not None:
            self._limiter.row_ended(row.hop.domain)
        row.hop = None

    def settle(self, row: Row, fetched: Fetched) -> None:
        """See Network: take the failure of a row that was held."""
        row.attempts += 1
        self._follow_up(row, fetched, time())
        self._wake.set()

    def ask_again(self, row: Row) -> None:
        """See Network."""
        self._come_back(row)
        self._return(row)

    def let_one_ask(self) -> None:
        """See Network."""
        self._wake.set()

    def returned(self) -> None:
        """See Network."""
        self._client.outage_ended()
        self._wake.set()

    def _follow_up(self, row: Row, fetched: Fetched, now_s: float) -> None:
        """Do what follows an attempt."""
        self._note_host(row, fetched)
        self._come_back(row)
        step = next_step(fetched, row.attempts, self._http, self._random.random(), now_s)
        if isinstance(step, Retry):
            self._delay(row, step.delay_s)
        else:
            self._end(row, fetched if row.attempts == 1 else replace(fetched, attempts=row.attempts))

    async def _learn_rules(self, row: Row) -> None:
        """Ask the host of a row for its rules, if it is the row to do so, and let go those that wait for them."""
        origin = origin_of(row.address)
        if origin not in self._awaiting_rules:
            return
        try:
            host = await self._client.hosts.learn(origin)
            if host.crawl_delay_s:
                self._domains.set_min_interval(row.domain, host.crawl_delay_s)
        finally:
            # In front of the fresh rows, where they came from; a heap would cost more than all else here.
            self._fresh.extendleft(reversed(self._awaiting_rules.pop(origin, ())))
            self._wake.set()

    def _note_host(self, row: Row, fetched: Fetched) -> None:
        """Take note of a host that cannot be reached, or that can again."""
        fetched = row.of_host(fetched)
        if is_unreachable(fetched):
            origin = origin_of(row.address)
            failure = (fetched.outcome, fetched.detail or "")
            breaker = self._breakers.of(origin, failure)
            before_s = breaker.cooldown_ends_s
            breaker.failed(failure, monotonic())
            if self._limiter is not None and breaker.cooldown_ends_s != before_s:
                self._limiter.report_dead_host(row.domain, DeadHost(origin, *failure))
        elif self._breakers and fetched.http_status is not None:
            self._breakers.answered(origin_of(row.address))

    def _refuse(self, row: Row, failure: Failure) -> None:
        """End a row without another request."""
        draft = Draft() if row.hop is None else row.hop.draft
        self._come_back(row)
        self._end(row, replace(draft.end(*failure), attempts=row.attempts))

    def _end(self, row: Row, fetched: Fetched) -> None:
        row.done(row.request.row, fetched)
        if self._limiter is not None:
            self._limiter.row_ended(row.request.domain)

    def _return(self, row: Row) -> None:
        """Let a row start before those that never did."""
        heapq.heappush(self._returned, row)
        self._wake.set()

    def _delay(self, row: Row, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._delays[row.sequence] = loop.call_later(delay_s, self._end_delay, row)

    def _end_delay(self, row: Row) -> None:
        del self._delays[row.sequence]
        self._return(row)

    def _clear(self) -> None:
        for timer in self._delays.values():
            timer.cancel()
        self._domains.clear()
        self.network.clear()
        for rows in (
            self._announced,
            self._fresh,
            self._returned,
            self._delays,
            self._awaiting_rules,
            self._breakers,
        ):
            rows.clear()
        self.in_flight = 0
