"""The domains of a pool: which of their rows may start, which wait, and how long each server is left alone.

How many requests are in flight follows the server, by additive increase and multiplicative decrease (Chiu and
Jain, 1989, https://doi.org/10.1016/0169-7552(89)90019-6), as TCP does: a refusal (429, 503, or a 5xx with
Retry-After) or a latency far above the best one seen halves the window, at most once per window of responses;
every good response widens it again, up to what the spec allows.

One refusal concerns its row alone otherwise. Several in a row, with no other response between them, mean that the
server is overloaded: the domain cools down, for longer each time. A server that asks for a longer cooldown than the
spec allows, or refuses after every cooldown, is closed: its rows end unasked. When the time that it asked for is
over, and not before CLOSED_S, it is asked again, one row at a time.

A limit is the pool's own, or, with a :class:`LimiterClient`, shared with other workers.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from turbo_fetch.fetch.allocations import Cooldown, Grant
from turbo_fetch.fetch.limiter_client import Allocation, LimiterClient
from turbo_fetch.fetch.request import Done, Fetched, Row
from turbo_fetch.fetch.retry_policy import backoff_ceiling_s, refusal_s
from turbo_fetch.spec import DomainSpec, HttpSpec

REFUSALS_TO_COOL_DOWN: Final = 3
COOLDOWNS_TO_CLOSE: Final = 8
CLOSED_S: Final = 600.0
LONGEST_CLOSED_S: Final = 86_400.0
SLOW_TIMES: Final = 4.0
SLOW_MS: Final = 250.0
"""A latency is rising when it is above SLOW_TIMES the best one and SLOW_MS more: far above what noise does."""

SMOOTHING: Final = 0.125
"""Weight of a new latency in the mean, as in RFC 6298."""


@dataclass(slots=True)
class Domain:
    """State of one domain in a pool. `parked` is a heap of rows that wait for a permit."""

    preset: DomainSpec = field(default_factory=DomainSpec)
    min_interval_s: float = 0.0
    """Seconds from one start to the next; 0 for none."""
    active: int = 0
    parked: list[Row] = field(default_factory=list)
    is_cooling_down: bool = False
    is_spacing: bool = False
    """Whether the next start has to wait for its time."""
    has_turn_in_use: bool = False
    """Whether a permit has been used for which it was time, and no request has started yet."""
    is_closed: bool = False
    allocation: Allocation | None = None
    """The part of the limit that is ours; None if we need not share it."""
    _refusals: int = 0
    cooldowns: int = 0
    """How many there were in a row."""
    _window: float | None = None
    """Requests that may be in flight; None while the limit of the spec does."""
    _answers_until_cut: float = 0.0
    _best_ms: float | None = None
    _mean_ms: float = 0.0

    def limit(self, http: HttpSpec) -> int:
        """Return the most requests that the spec allows."""
        return http.limit_of(self.preset) or http.concurrency

    def permits(self, http: HttpSpec) -> int:
        """Return how many more requests may start now."""
        if self.is_cooling_down or self.is_spacing:
            return 0
        limit = self.limit(http)
        free = (limit if self._window is None else int(self._window)) - self.active
        if self.allocation is not None and not self.allocation.is_unlimited:
            free = min(free, self.allocation.free)
        return min(free, 1) if self.min_interval_s else free

    @property
    def is_left_alone(self) -> bool:
        """Whether nothing may be asked of it for now, since it refused."""
        return self.is_cooling_down or self.is_closed

    @property
    def window(self) -> float:
        """Requests that the server is trusted to bear."""
        return math.inf if self._window is None else self._window

    @property
    def is_idle(self) -> bool:
        """Whether nothing is worth remembering."""
        busy = self.active or self.parked or self.is_cooling_down or self.is_spacing or self.is_closed
        return not (busy or self._refusals or self._window is not None)

    def answered(self, http: HttpSpec, latency_ms: float | None = None) -> None:
        """Note an answer that was not a refusal, and how long it took to begin."""
        self._refusals = self.cooldowns = 0
        self._answers_until_cut -= 1
        if latency_ms is not None and http.per_domain and self._is_slowing(latency_ms):
            self._cut(http)
        elif self._window is not None:
            self._window += 1 / self._window
            if self._window >= self.limit(http):
                self._window = None

    def overloaded(self, http: HttpSpec) -> None:
        """Note an answer that says the server has too much to do, but does not ask to be left alone."""
        self._answers_until_cut -= 1
        self._cut(http)

    def refused(self, pause_s: float, http: HttpSpec) -> float | None:
        """Note a refusal that asks for `pause_s`; return the seconds of the cooldown that begins, if any."""
        self._refusals += 1
        self.overloaded(http)
        if self.is_left_alone or self._refusals < REFUSALS_TO_COOL_DOWN:
            return None
        self.cooldowns += 1
        if pause_s > http.max_backoff_s or self.cooldowns > COOLDOWNS_TO_CLOSE:
            self.is_closed = True
            return None
        self.is_cooling_down = True
        return max(pause_s, backoff_ceiling_s(self.cooldowns, http))

    def cool_down(self, cooldown: Cooldown) -> bool:
        """Take over a cooldown that another worker met; return whether it is news."""
        if self.is_left_alone:
            return False
        self._refusals, self.cooldowns = REFUSALS_TO_COOL_DOWN, cooldown.in_a_row
        self.is_closed = cooldown.is_closed
        self.is_cooling_down = not cooldown.is_closed
        return True

    def reopen(self) -> None:
        """Let one request at a time through a closed domain; the next refusal closes it again."""
        self.is_closed = False
        self._window = 1.0
        self._refusals, self.cooldowns = REFUSALS_TO_COOL_DOWN - 1, COOLDOWNS_TO_CLOSE

    def _cut(self, http: HttpSpec) -> None:
        # The requests that were under way at the last cut say nothing about what it did.
        if self._answers_until_cut > 0:
            return
        window = self._window or float(self.limit(http))
        self._answers_until_cut = window
        self._window = max(1.0, window / 2)

    def _is_slowing(self, latency_ms: float) -> bool:
        if self._best_ms is None:
            self._best_ms = self._mean_ms = latency_ms
            return False
        self._best_ms = min(self._best_ms, latency_ms)
        self._mean_ms += SMOOTHING * (latency_ms - self._mean_ms)
        return self._mean_ms > SLOW_TIMES * self._best_ms + SLOW_MS


class Domains:
    """State of all domains that have rows; `release` takes a parked row whose time has come."""

    def __init__(self, http: HttpSpec, release: Callable[[Row], None], limiter: LimiterClient | None) -> None:
        self.parked = 0
        """Rows whose domain is busy or wants to be left alone."""
        self._http = http
        self._release = release
        self._limiter = limiter
        self._domains: dict[str, Domain] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def domain(self, name: str) -> Domain:
        """Return the state of a domain that has rows."""
        domain = self._domains.get(name)
        if domain is None:
            preset = self._http.preset(name)
            domain = self._domains[name] = Domain(preset, preset.delay_s or 0.0)
        if self._limiter is not None:
            domain.allocation = self._limiter.allocation(name)
            domain.min_interval_s = domain.allocation.min_interval_s
        return domain

    def park(self, row: Row) -> None:
        """Let a row wait for a permit."""
        heapq.heappush(self._domains[row.domain].parked, row)
        self.parked += 1

    def queues(self) -> Iterator[list[Row]]:
        """Yield the rows that are parked, by domain."""
        return (domain.parked for domain in self._domains.values())

    def withdraw(self, done: Done) -> None:
        """Forget the parked rows that were submitted with `done`."""
        for name, domain in list(self._domains.items()):
            before = len(domain.parked)
            domain.parked[:] = [row for row in domain.parked if row.done is not done]
            if len(domain.parked) < before:
                heapq.heapify(domain.parked)
                self.parked -= before - len(domain.parked)
                self.unpark(name, domain)

    def begin(self, name: str, domain: Domain) -> None:
        """Use a permit for a request that is about to start."""
        domain.active += 1
        if self._limiter is not None and domain.allocation is not None:
            self._limiter.begin(name, domain.allocation)
        elif domain.min_interval_s:
            domain.is_spacing = domain.has_turn_in_use = True

    def start(self, name: str) -> bool:
        """Return whether a request that has a permit may start now; the next one's time counts from here.

        The permit was issued a while ago, if the host had to be asked for its rules: the domain may want to be left
        alone since, or ask for an interval.
        """
        domain = self._domains[name]
        if domain.is_left_alone:
            return False
        if self._limiter is not None and domain.allocation is not None:
            return self._limiter.start(name, domain.allocation)
        if not domain.min_interval_s:
            return True
        if domain.is_spacing and not domain.has_turn_in_use:
            return False
        domain.has_turn_in_use = False
        self._space(name, domain, domain.min_interval_s)
        return True

    def give_up(self, name: str) -> None:
        """Return a permit without a request."""
        domain = self._domains[name]
        domain.active -= 1
        if self._limiter is not None and domain.allocation is not None:
            self._limiter.give_up(name, domain.allocation)
        elif domain.has_turn_in_use:
            domain.is_spacing = domain.has_turn_in_use = False
        self.unpark(name, domain)

    def may_follow(self, name: str) -> bool:
        """Whether another request may follow one in flight at once, with its permit."""
        domain = self._domains[name]
        if domain.is_left_alone:
            return False
        return not (domain if domain.allocation is None else domain.allocation).min_interval_s

    def end(self, name: str, fetched: Fetched, now_s: float) -> None:
        """Return a permit, and learn from how the request ended."""
        domain = self._domains[name]
        window = domain.window
        domain.active -= 1
        if self._limiter is not None and domain.allocation is not None:
            self._limiter.end(name, domain.allocation)
        pause_s = refusal_s(fetched, now_s)
        if pause_s is not None:
            self._refused(name, domain, pause_s)
        elif fetched.http_status == HTTPStatus.SERVICE_UNAVAILABLE:
            domain.overloaded(self._http)
        elif fetched.http_status is not None:
            domain.answered(self._http, fetched.first_byte_ms)
        if self._limiter is not None and domain.window < window:
            self._limiter.report_slowed(name)
        self.unpark(name, domain)

    def set_min_interval(self, name: str, asked_s: float) -> None:
        """Obey a Crawl-delay, as far as is sensible, unless the spec says otherwise; the longest of a domain counts."""
        domain = self._domains[name]
        if domain.preset.delay_s is not None:
            return
        domain.min_interval_s = max(domain.min_interval_s, min(asked_s, self._http.max_backoff_s))
        if self._limiter is not None:
            self._limiter.learn_min_interval(name, domain.min_interval_s)

    def unpark(self, name: str, domain: Domain) -> None:
        """Release as many parked rows as their domain has permits, and forget a domain without rows."""
        permits = len(domain.parked) if domain.is_closed else domain.permits(self._http)
        for _ in range(min(permits, len(domain.parked))):
            self._release(heapq.heappop(domain.parked))
            self.parked -= 1
        if domain.is_idle:
            del self._domains[name]

    def pass_on(self, name: str) -> None:
        """Let another row of a domain have the permit that a row was called for and does not take."""
        domain = self._domains.get(name)
        if domain is not None and domain.parked:
            self.unpark(name, domain)

    def apply(self, grant: Grant, limiter: LimiterClient) -> None:
        """Obey what the parent of all workers says."""
        for name, cooldown in grant.cooldowns.items():
            if limiter.has_rows(name):
                self._cool_down(name, self.domain(name), cooldown)
        for name in limiter.apply(grant):
            wait_s = grant.tokens.get(name)
            if wait_s and limiter.has_rows(name):
                self._space(name, self.domain(name), wait_s)
            self.pass_on(name)

    def clear(self) -> None:
        """Forget all domains and stop all clocks."""
        for timer in self._timers.values():
            timer.cancel()
        self._domains.clear()
        self._timers.clear()
        self.parked = 0

    def _refused(self, name: str, domain: Domain, pause_s: float) -> None:
        was_closed = domain.is_closed
        cooldown_s = domain.refused(pause_s, self._http)
        if cooldown_s is not None:
            cooldown = Cooldown(cooldown_s, domain.cooldowns)
        elif domain.is_closed and not was_closed:
            cooldown = Cooldown(
                min(max(pause_s, CLOSED_S), LONGEST_CLOSED_S), domain.cooldowns, is_closed=True
            )
        else:
            return
        self._time_cooldown(name, cooldown)
        if self._limiter is not None:
            self._limiter.report_cooldown(name, cooldown)

    def _cool_down(self, name: str, domain: Domain, cooldown: Cooldown) -> None:
        """Take over a cooldown that another worker met."""
        if domain.cool_down(cooldown):
            self._time_cooldown(name, cooldown)
            self.unpark(name, domain)

    def _time_cooldown(self, name: str, cooldown: Cooldown) -> None:
        then = self._reopen if cooldown.is_closed else self._end_cooldown
        self._start_timer(f"{name} cooldown", cooldown.seconds, then, name)

    def _end_cooldown(self, name: str) -> None:
        domain = self._domains[name]
        domain.is_cooling_down = False
        self.unpark(name, domain)

    def _reopen(self, name: str) -> None:
        self._domains[name].reopen()

    def _space(self, name: str, domain: Domain, wait_s: float) -> None:
        domain.is_spacing = True
        self._start_timer(f"{name} interval", wait_s, self._end_spacing, name)

    def _end_spacing(self, name: str) -> None:
        domain = self._domains[name]
        domain.is_spacing = False
        self.unpark(name, domain)

    def _start_timer(self, key: str, seconds: float, then: Callable[[str], None], name: str) -> None:
        def ring() -> None:
            del self._timers[key]
            then(name)

        if key in self._timers:
            self._timers[key].cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, ring)
