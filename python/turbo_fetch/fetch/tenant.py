"""The worker's end of leases: which places of domains it has, wants, and gives back.

Nothing is asked per request. A batch of rows is announced as a whole, with all its domains, and starts when the answer
is there; places are kept as long as there are rows for them, or until the parent calls them back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from turbo_fetch.fetch.leases import Dead, Demand, Grant, Rest
from turbo_fetch.spec import HttpSpec

LAZY_S: Final = 0.5
"""How long places that nobody called back may wait to be given back, for messages cost as well."""


@dataclass(slots=True)
class Lease:
    """What a worker has of one domain, while it has rows of it."""

    limit: int
    is_free: bool
    """Whether no place is needed: the domain has neither limit nor pace."""
    spacing_s: float
    """The pace, in seconds; if there is one, each place is a ticket, for one request."""
    rows: int = 0
    """Rows of the domain that have not ended."""
    held: int = 0
    in_use: int = 0
    """Requests in flight."""
    owed: int = 0
    """Places to give back as soon as they are free."""
    told: int = 0
    """Places wanted, as the parent was told last."""
    has_ticket: bool = False
    """Whether a ticket is among the places that was not used."""

    @property
    def is_paced(self) -> bool:
        """Whether tickets are needed."""
        return self.spacing_s > 0

    @property
    def free(self) -> int:
        """How many more requests may begin."""
        return self.held - self.in_use


class Tenant:
    """The leases of a worker; belongs to one event loop.

    Where a domain has no limit, nothing is said of it but the pace that it asks for.
    """

    def __init__(self, http: HttpSpec) -> None:
        self._http = http
        self._leases: dict[str, Lease] = {}
        self._demand = Demand()
        self._demands = 0
        """Demands that are under way or were answered; the one in the making is the next."""
        self._answers = 0
        self._has_news = False
        self._is_urgent = asyncio.Event()

    def lease(self, domain: str) -> Lease:
        """Return the lease of a domain that has rows."""
        return self._leases[domain]

    def has_rows(self, domain: str) -> bool:
        """Whether a domain has rows."""
        return domain in self._leases

    def announce(self, domains: Iterable[str]) -> int | None:
        """Take note of rows, by their domains; return the number of the answer that they have to wait for, if any."""
        changed = {}
        for name in domains:
            lease = self._leases.get(name) or self._new(name)
            lease.rows += 1
            if not lease.is_free and lease.rows <= lease.limit:
                changed[name] = lease
        is_asked = False
        for name, lease in changed.items():
            if lease.rows > lease.told:
                is_asked = True
                self._tell(name, lease)
        return self._demands + 1 if is_asked else None

    def has_answer(self, number: int) -> bool:
        """Whether the parent has answered what was asked."""
        return self._answers >= number

    def begin(self, domain: str, lease: Lease) -> None:
        """Take note that a request begins."""
        lease.in_use += 1
        if lease.has_ticket:
            lease.has_ticket = False
            self._demand.started.append(domain)
            self._hurry()

    def end(self, domain: str, lease: Lease) -> None:
        """Take note that a request has ended."""
        lease.in_use -= 1
        if lease.is_paced:
            lease.owed = min(lease.held, lease.owed + 1)
        if lease.owed:
            self._settle(domain, lease)
            self._hurry()

    def row_ended(self, domain: str) -> None:
        """Take note that a row has ended, which has no request in flight."""
        lease = self._leases[domain]
        lease.rows -= 1
        if lease.rows < lease.held or not lease.rows:
            self._settle(domain, lease)

    def learn_pace(self, domain: str, spacing_s: float) -> bool:
        """Take note of the pace that a domain asks for; return whether that is news."""
        lease = self._leases[domain]
        if lease.is_paced:
            return False
        self._demand.paces[domain] = spacing_s
        self._start_pacing(domain, lease, spacing_s)
        self._tell(domain, lease)
        return True

    def slowed(self, domain: str) -> None:
        """Pass on that a domain was asked too fast."""
        if not self._leases[domain].is_free:
            self._demand.slowed.append(domain)
            self._hurry()

    def rests(self, domain: str, rest: Rest) -> None:
        """Pass on that a domain wants rest."""
        if not self._leases[domain].is_free:
            self._demand.rests[domain] = rest
            self._hurry()

    def met_dead(self, domain: str, dead: Dead) -> None:
        """Pass on that a host of a domain cannot be reached."""
        if not self._leases[domain].is_free:
            self._demand.dead[domain] = dead
            self._hurry()

    def take(self, grant: Grant) -> Iterator[str]:
        """Take what the parent says; yield the domains of which more rows may start."""
        self._answers += grant.answers
        for name, spacing_s in grant.paces.items():
            lease = self._leases.get(name)
            if lease is not None and not lease.is_paced:
                self._start_pacing(name, lease, spacing_s)
        for name, places in grant.places.items():
            lease = self._leases.get(name) or self._new(name)
            lease.held += places
            if lease.is_paced:
                lease.owed += places
            if lease.owed or lease.held > lease.rows:
                self._settle(name, lease)
            yield name
        for name in grant.tickets:
            lease = self._leases.get(name) or self._new(name)
            lease.held += 1
            lease.has_ticket = True
            if lease.owed or lease.held > lease.rows:
                self._settle(name, lease)
            yield name
        for name, places in grant.recalls.items():
            lease = self._leases.get(name)
            if lease is not None and (lease.has_ticket or not lease.is_paced):
                lease.owed = min(lease.held, lease.owed + places)
                self._settle(name, lease)
                self._hurry()

    async def demand(self) -> Demand:
        """Return what there is to say next, as soon as there is something."""
        await self._wait_for_urgency()
        while not self._has_news:
            await self._wait_for_urgency()
        return self.collect()

    def collect(self) -> Demand:
        """Return what there is to say now."""
        self._is_urgent.clear()
        self._has_news = False
        self._demands += 1
        demand, self._demand = self._demand, Demand()
        return demand

    async def _wait_for_urgency(self) -> None:
        try:
            async with asyncio.timeout(LAZY_S):
                await self._is_urgent.wait()
        except TimeoutError:
            return

    def _new(self, domain: str) -> Lease:
        preset = self._http.preset(domain)
        limit, spacing_s = self._http.limit_of(preset), preset.delay_s or 0.0
        lease = Lease(limit or self._http.concurrency, not (limit or spacing_s), spacing_s)
        self._leases[domain] = lease
        return lease

    def _start_pacing(self, domain: str, lease: Lease, spacing_s: float) -> None:
        """Give back the places, for from now on tickets count."""
        lease.spacing_s = spacing_s
        lease.is_free = False
        lease.owed = max(0, lease.free)
        self._settle(domain, lease)
        self._hurry()

    def _settle(self, domain: str, lease: Lease) -> None:
        """Give back what is free and owed, or of no use."""
        back = max(0, min(lease.free, max(lease.owed, lease.held - lease.rows)))
        if back:
            lease.held -= back
            lease.owed = max(0, lease.owed - back)
            if lease.has_ticket and lease.held == lease.in_use:
                lease.has_ticket = False
                self._demand.unused.append(domain)
        if back or (not lease.rows and lease.told):
            self._say(domain, lease, back)
        if not lease.rows and not lease.held:
            del self._leases[domain]

    def _tell(self, domain: str, lease: Lease) -> None:
        self._say(domain, lease, 0)
        self._hurry()

    def _say(self, domain: str, lease: Lease, back: int) -> None:
        lease.told = min(lease.rows, lease.limit)
        _, before = self._demand.places.get(domain, (0, 0))
        self._demand.places[domain] = (lease.told, before + back)
        self._has_news = True

    def _hurry(self) -> None:
        self._has_news = True
        self._is_urgent.set()
