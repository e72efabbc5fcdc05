"""The domains of a pool: who of their rows may start, who waits, and how long each server is left alone.

A limit is the pool's own, or, with a :class:`Tenant`, shared with other workers.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from turbo_fetch.fetch.domains import CLOSED_S, Domain
from turbo_fetch.fetch.fetched import Fetched
from turbo_fetch.fetch.leases import Grant, Rest
from turbo_fetch.fetch.policy import refusal_s
from turbo_fetch.fetch.rows import Row
from turbo_fetch.fetch.tenant import Tenant
from turbo_fetch.spec import HttpSpec

LONGEST_CLOSED_S: Final = 86_400.0


class Traffic:
    """State of all domains that have rows; `release` takes a parked row whose time has come."""

    def __init__(self, http: HttpSpec, release: Callable[[Row], None], tenant: Tenant | None) -> None:
        self.parked = 0
        """Rows whose domain is busy or wants to be left alone."""
        self._http = http
        self._release = release
        self._tenant = tenant
        self._domains: dict[str, Domain[Row]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def domain(self, name: str) -> Domain[Row]:
        """Return the state of a domain that has rows."""
        domain = self._domains.get(name)
        if domain is None:
            preset = self._http.preset(name)
            domain = self._domains[name] = Domain(preset, preset.delay_s or 0.0)
        if self._tenant is not None:
            domain.lease = self._tenant.lease(name)
            domain.spacing_s = domain.lease.spacing_s
        return domain

    def park(self, row: Row) -> None:
        """Let a row wait for a place."""
        heapq.heappush(self._domains[row.request.domain].parked, row)
        self.parked += 1

    def begin(self, name: str, domain: Domain[Row]) -> None:
        """Take a place for a request that begins."""
        domain.active += 1
        if self._tenant is not None and domain.lease is not None:
            self._tenant.begin(name, domain.lease)
        elif domain.spacing_s:
            self._space(name, domain, domain.spacing_s)

    def give_up(self, name: str) -> None:
        """Leave a place without a request."""
        domain = self._domains[name]
        self._leave(name, domain)
        self.unpark(name, domain)

    def end(self, name: str, fetched: Fetched, now_s: float) -> None:
        """Leave a place, and learn from how the request ended."""
        domain = self._domains[name]
        window = domain.window
        self._leave(name, domain)
        pause_s = refusal_s(fetched, now_s)
        if pause_s is not None:
            self._refused(name, domain, pause_s)
        elif fetched.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
            domain.overloaded(self._http)
        elif fetched.http_status is not None:
            domain.answered(self._http, fetched.first_byte_ms)
        if self._tenant is not None and domain.window < window:
            self._tenant.slowed(name)
        self.unpark(name, domain)

    def set_pace(self, name: str, asked_s: float) -> bool:
        """Obey a Crawl-delay, as far as is sensible, unless the spec says otherwise.

        Return whether a row that holds a place has to give it up, for it needs a ticket from now on.
        """
        domain = self._domains[name]
        if domain.preset.delay_s is not None:
            return False
        domain.spacing_s = min(asked_s, self._http.max_backoff_s)
        if self._tenant is not None:
            return self._tenant.learn_pace(name, domain.spacing_s)
        if domain.active and not domain.is_spaced:
            self._space(name, domain, domain.spacing_s)
        return False

    def unpark(self, name: str, domain: Domain[Row]) -> None:
        """Release as many parked rows as their domain has places, and forget a domain without rows."""
        places = len(domain.parked) if domain.is_closed else domain.places(self._http)
        for _ in range(min(places, len(domain.parked))):
            self._release(heapq.heappop(domain.parked))
            self.parked -= 1
        if domain.is_idle:
            del self._domains[name]

    def pass_on(self, name: str) -> None:
        """Let another row of a domain have the place that a row was called for and does not take."""
        domain = self._domains.get(name)
        if domain is not None and domain.parked:
            self.unpark(name, domain)

    def take(self, grant: Grant, tenant: Tenant) -> None:
        """Obey what the parent of all workers says."""
        for name, rest in grant.rests.items():
            if tenant.has_rows(name):
                self._rest(name, self.domain(name), rest)
        for name in tenant.take(grant):
            wait_s = grant.tickets.get(name)
            if wait_s and tenant.has_rows(name):
                self._space(name, self.domain(name), wait_s)
            self.pass_on(name)

    def forget_all(self) -> None:
        """Forget all domains and stop all clocks."""
        for timer in self._timers.values():
            timer.cancel()
        self._domains.clear()
        self._timers.clear()
        self.parked = 0

    def _leave(self, name: str, domain: Domain[Row]) -> None:
        domain.active -= 1
        if self._tenant is not None and domain.lease is not None:
            self._tenant.end(name, domain.lease)

    def _refused(self, name: str, domain: Domain[Row], pause_s: float) -> None:
        was_closed = domain.is_closed
        hold_s = domain.refused(pause_s, self._http)
        if hold_s is not None:
            rest = Rest(hold_s, domain.holds)
        elif domain.is_closed and not was_closed:
            rest = Rest(min(max(pause_s, CLOSED_S), LONGEST_CLOSED_S), domain.holds, is_closed=True)
        else:
            return
        self._time_rest(name, rest)
        if self._tenant is not None:
            self._tenant.rests(name, rest)

    def _rest(self, name: str, domain: Domain[Row], rest: Rest) -> None:
        """Take over the rest that a domain wants from another worker."""
        if domain.rest(rest):
            self._time_rest(name, rest)
            self.unpark(name, domain)

    def _time_rest(self, name: str, rest: Rest) -> None:
        then = self._reopen if rest.is_closed else self._end_hold
        self._start_timer(f"{name} rest", rest.seconds, then, name)

    def _end_hold(self, name: str) -> None:
        domain = self._domains[name]
        domain.is_held = False
        self.unpark(name, domain)

    def _reopen(self, name: str) -> None:
        self._domains[name].reopen()

    def _space(self, name: str, domain: Domain[Row], wait_s: float) -> None:
        domain.is_spaced = True
        self._start_timer(f"{name} pace", wait_s, self._end_spacing, name)

    def _end_spacing(self, name: str) -> None:
        domain = self._domains[name]
        domain.is_spaced = False
        self.unpark(name, domain)

    def _start_timer(self, key: str, seconds: float, then: Callable[[str], None], name: str) -> None:
        def ring() -> None:
            del self._timers[key]
            then(name)

        if key in self._timers:
            self._timers[key].cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, ring)
