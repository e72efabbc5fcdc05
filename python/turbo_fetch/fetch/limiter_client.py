"""The worker's end of the rate limiter: which permits for domains it has, wants, and returns.

Nothing is asked per request. A batch of rows is announced as a whole, with all its domains, and starts when the answer
is there; permits are kept as long as there are rows for them, or until the parent revokes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from turbo_fetch.fetch.allocations import Cooldown, DeadHost, Demand, Grant
from turbo_fetch.spec import HttpSpec

RETURN_WITHIN_S: Final = 0.5
"""How long permits that were not revoked may wait to be returned, for messages cost as well."""


@dataclass(slots=True)
class Allocation:
    """The permits that a worker has for one domain, while it has rows of it."""

    limit: int
    is_unlimited: bool
    """Whether no permit is needed: the domain has neither limit nor minimum interval."""
    min_interval_s: float
    """Seconds from start to start; if there is such an interval, each permit is a token, for one request."""
    rows: int = 0
    """Rows of the domain that have not ended."""
    held: int = 0
    in_use: int = 0
    """Requests in flight."""
    to_return: int = 0
    """Permits to return as soon as they are free."""
    requested: int = 0
    """Permits wanted, as the parent was told last."""
    has_token: bool = False
    """Whether a token is among the permits that was not used."""
    has_token_in_use: bool = False
    """Whether a token is in use by which no request has started yet."""

    @property
    def has_min_interval(self) -> bool:
        """Whether tokens are needed."""
        return self.min_interval_s > 0

    @property
    def free(self) -> int:
        """How many more requests may begin."""
        return self.held - self.in_use


class LimiterClient:
    """The allocations of a worker; belongs to one event loop.

    Where a domain has no limit, nothing is said of it but the interval that it asks for.
    """

    def __init__(self, http: HttpSpec) -> None:
        self._http = http
        self._allocations: dict[str, Allocation] = {}
        self._demand = Demand()
        self._demands = 0
        """Demands that are under way or were answered; the one in the making is the next."""
        self._answers = 0
        self._has_changes = False
        self._urgent = asyncio.Event()

    def allocation(self, domain: str) -> Allocation:
        """Return the allocation of a domain that has rows."""
        return self._allocations[domain]

    def has_rows(self, domain: str) -> bool:
        """Whether a domain has rows."""
        return domain in self._allocations

    def announce(self, domains: Iterable[str]) -> int | None:
        """Take note of rows, by their domains; return the number of the answer that they have to wait for, if any."""
        changed = {}
        for name in domains:
            allocation = self._allocations.get(name) or self._new(name)
            allocation.rows += 1
            if not allocation.is_unlimited and allocation.rows <= allocation.limit:
                changed[name] = allocation
        is_asked = False
        for name, allocation in changed.items():
            if allocation.rows > allocation.requested:
                is_asked = True
                self._request(name, allocation)
        return self._demands + 1 if is_asked else None

    def has_answer(self, number: int) -> bool:
        """Whether the parent has answered what was asked."""
        return self._answers >= number

    def begin(self, domain: str, allocation: Allocation) -> None:
        """Take note that a permit is in use, for a request that is about to start."""
        allocation.in_use += 1
        allocation.has_token_in_use |= allocation.has_token
        allocation.has_token = False

    def start(self, domain: str, allocation: Allocation) -> bool:
        """Return whether a request that has a permit may start now, which counts from here if there is an interval.

        It may not if it takes a token since the permit was issued, and there is none in use.
        """
        if not allocation.has_min_interval:
            return True
        if not allocation.has_token_in_use:
            return False
        allocation.has_token_in_use = False
        self._demand.used_tokens.append(domain)
        self._send_soon()
        return True

    def give_up(self, domain: str, allocation: Allocation) -> None:
        """Take note that a request which has a permit does not start."""
        if allocation.has_token_in_use:
            allocation.has_token_in_use = False
            self._demand.unused_tokens.append(domain)
        self.end(domain, allocation)

    def end(self, domain: str, allocation: Allocation) -> None:
        """Take note that a request has ended."""
        allocation.in_use -= 1
        if allocation.has_min_interval:
            allocation.to_return = min(allocation.held, allocation.to_return + 1)
        if allocation.to_return:
            self._return_permits(domain, allocation)
            self._send_soon()

    def row_ended(self, domain: str) -> None:
        """Take note that a row has ended, which has no request in flight."""
        allocation = self._allocations[domain]
        allocation.rows -= 1
        if allocation.rows < allocation.held or not allocation.rows:
            self._return_permits(domain, allocation)

    def learn_min_interval(self, domain: str, min_interval_s: float) -> None:
        """Take note of the interval that a host of a domain asks for; the longest one counts."""
        allocation = self._allocations[domain]
        if min_interval_s <= allocation.min_interval_s:
            return
        self._demand.min_intervals_s[domain] = min_interval_s
        self._set_min_interval(domain, allocation, min_interval_s)
        self._request(domain, allocation)

    def report_slowed(self, domain: str) -> None:
        """Pass on that a domain was asked too fast."""
        if not self._allocations[domain].is_unlimited:
            self._demand.slowed.append(domain)
            self._send_soon()

    def report_cooldown(self, domain: str, cooldown: Cooldown) -> None:
        """Pass on that a domain is to be left alone."""
        if not self._allocations[domain].is_unlimited:
            self._demand.cooldowns[domain] = cooldown
            self._send_soon()

    def report_dead_host(self, domain: str, dead: DeadHost) -> None:
        """Pass on that a host of a domain cannot be reached."""
        if not self._allocations[domain].is_unlimited:
            self._demand.dead_hosts[domain] = dead
            self._send_soon()

    def apply(self, grant: Grant) -> Iterator[str]:
        """Do what the parent says; yield the domains of which more rows may start."""
        self._answers += grant.answers
        for name, min_interval_s in grant.min_intervals_s.items():
            self._demand.known_intervals.append(name)
            self._send_soon()
            allocation = self._allocations.get(name)
            if allocation is not None and min_interval_s > allocation.min_interval_s:
                self._set_min_interval(name, allocation, min_interval_s)
        for name, permits in grant.permits.items():
            allocation = self._allocations.get(name) or self._new(name)
            allocation.held += permits
            if allocation.has_min_interval:
                allocation.to_return += permits
            if allocation.to_return or allocation.held > allocation.rows:
                self._return_permits(name, allocation)
            yield name
        for name in grant.tokens:
            allocation = self._allocations.get(name) or self._new(name)
            allocation.held += 1
            allocation.has_token = True
            if allocation.to_return or allocation.held > allocation.rows:
                self._return_permits(name, allocation)
            yield name
        for name, permits in grant.revocations.items():
            allocation = self._allocations.get(name)
            if allocation is not None and (allocation.has_token or not allocation.has_min_interval):
                allocation.to_return = min(allocation.held, allocation.to_return + permits)
                self._return_permits(name, allocation)
                self._send_soon()

    async def next_demand(self) -> Demand:
        """Return what there is to say next, as soon as there is something."""
        await self._wait_until_urgent()
        while not self._has_changes:
            await self._wait_until_urgent()
        return self.collect()

    def collect(self) -> Demand:
        """Return what there is to say now."""
        self._urgent.clear()
        self._has_changes = False
        self._demands += 1
        demand, self._demand = self._demand, Demand()
        return demand

    async def _wait_until_urgent(self) -> None:
        try:
            async with asyncio.timeout(RETURN_WITHIN_S):
                await self._urgent.wait()
        except TimeoutError:
            return

    def _new(self, domain: str) -> Allocation:
        preset = self._http.preset(domain)
        limit, min_interval_s = self._http.limit_of(preset), preset.delay_s or 0.0
        allocation = Allocation(
            limit or self._http.concurrency, not (limit or min_interval_s), min_interval_s
        )
        self._allocations[domain] = allocation
        return allocation

    def _set_min_interval(self, domain: str, allocation: Allocation, min_interval_s: float) -> None:
        """If this is the first interval, return the permits, for from now on tokens count."""
        had_min_interval = allocation.has_min_interval
        allocation.min_interval_s = min_interval_s
        if had_min_interval:
            return
        allocation.is_unlimited = False
        allocation.to_return = max(0, allocation.free)
        self._return_permits(domain, allocation)
        self._send_soon()

    def _return_permits(self, domain: str, allocation: Allocation) -> None:
        """Return permits that are free and revoked, or of no use."""
        returned = max(0, min(allocation.free, max(allocation.to_return, allocation.held - allocation.rows)))
        if returned:
            allocation.held -= returned
            allocation.to_return = max(0, allocation.to_return - returned)
            if allocation.has_token and allocation.held == allocation.in_use:
                allocation.has_token = False
                self._demand.unused_tokens.append(domain)
        if returned or (not allocation.rows and allocation.requested):
            self._note(domain, allocation, returned)
        if not allocation.rows and not allocation.held:
            del self._allocations[domain]

    def _request(self, domain: str, allocation: Allocation) -> None:
        self._note(domain, allocation, 0)
        self._send_soon()

    def _note(self, domain: str, allocation: Allocation, returned: int) -> None:
        allocation.requested = min(allocation.rows, allocation.limit)
        _, before = self._demand.permits.get(domain, (0, 0))
        self._demand.permits[domain] = (allocation.requested, before + returned)
        self._has_changes = True

    def _send_soon(self) -> None:
        self._has_changes = True
        self._urgent.set()
