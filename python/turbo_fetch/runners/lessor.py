"""Hands the places of domains out to workers: never more than a domain allows, to all who want some in turn.

Pure bookkeeping: time is passed in, messages come out. Safe because both sides err in the same direction: a place
counts as held here from before its worker hears of it until after the worker has given it up.

A worker that wants a domain alone has all of its places. When another one comes, those above an even share are called
back, each to be returned when its request ends. Where there are fewer places than workers, a place is called back when
its worker has had it for TURN_S. Requests of a worker that died may go on for a while at the server; its places
are of use again when that is over.
"""

from __future__ import annotations

from typing import Final

from turbo_fetch.fetch.leases import Dead, Demand, Grant, Rest
from turbo_fetch.runners.leased_domain import LeasedDomain, Share, by_age, surplus
from turbo_fetch.spec import HttpSpec

TURN_S: Final = 1.0
CUT_EVERY_S: Final = 1.0
"""Several workers that are refused at the same time have met the same trouble."""
RISE_EVERY_S: Final = 1.0
LINGER_S: Final = 1.0
"""How long a server may take to see that a client is gone whose connections are closed."""


class Lessor:
    """The leases of all domains. Times are seconds of one clock that does not go back."""

    def __init__(self, http: HttpSpec) -> None:
        self._http = http
        self._domains: dict[str, LeasedDomain] = {}
        self._grants: dict[int, Grant] = {}
        self._idle: set[str] = set()
        """Domains that nobody wants and of which something is remembered."""
        self._contended: set[str] = set()
        """Domains that a worker wants and has no place of."""
        self._slowed: set[str] = set()
        self._losses: list[tuple[float, str, int]] = []

    @property
    def is_idle(self) -> bool:
        """Whether nothing is leased or remembered."""
        return not self._domains

    def grants(self) -> dict[int, Grant]:
        """Return what there is to send, by worker, and forget it."""
        grants, self._grants = self._grants, {}
        return grants

    def demand(self, worker: int, demand: Demand, now_s: float) -> None:
        """Take what a worker says."""
        self._grant(worker).answers += 1
        for name, spacing_s in demand.paces.items():
            self._set_pace(name, spacing_s, now_s)
        self._end_tickets(worker, demand, now_s)
        for name in demand.slowed:
            self._slow(name, now_s)
        for name, (wanted, returned) in demand.places.items():
            self._take_back(worker, name, wanted, returned, now_s)
        for name, rest in demand.rests.items():
            self._rest(worker, name, rest, now_s)
        for name, dead in demand.dead.items():
            self._tell_others(worker, name, dead)
        for name in {*demand.paces, *demand.started, *demand.slowed, *demand.places}:
            self._deal(name, now_s)

    def ended(self, worker: int, lingers_s: float, now_s: float) -> None:
        """Take note that a worker is gone, whose requests may go on for `lingers_s`."""
        self._grants.pop(worker, None)
        for name, domain in list(self._domains.items()):
            share = domain.shares.pop(worker, None)
            if share is None:
                continue
            if domain.ticket == worker:
                domain.ticket = None
                domain.next_start_s = now_s + lingers_s + domain.spacing_s
            if share.held:
                domain.lost += share.held
                self._losses.append((now_s + lingers_s, name, share.held))
            self._deal(name, now_s)

    def tick(self, now_s: float) -> None:
        """Do what the time has come for; to be called a few times a second."""
        due = [loss for loss in self._losses if loss[0] <= now_s]
        if due:
            self._losses = [loss for loss in self._losses if loss[0] > now_s]
        for _, name, places in due:
            self._domains[name].lost -= places
            self._deal(name, now_s)
        for name in list(self._contended):
            self._take_turns(name, self._domains[name], now_s)
        for name in list(self._slowed):
            self._rise(name, self._domains[name], now_s)
        for name in list(self._idle):
            self._leave(name, self._domains[name], now_s)

    def _grant(self, worker: int) -> Grant:
        grant = self._grants.get(worker)
        if grant is None:
            grant = self._grants[worker] = Grant()
        return grant

    def _domain(self, name: str) -> LeasedDomain:
        domain = self._domains.get(name)
        if domain is None:
            preset = self._http.preset(name)
            limit = self._http.limit_of(preset) or self._http.concurrency
            domain = LeasedDomain(limit, limit, preset.delay_s or 0.0)
            self._domains[name] = domain
        return domain

    def _set_pace(self, name: str, spacing_s: float, now_s: float) -> None:
        domain = self._domain(name)
        if domain.spacing_s:
            return
        domain.spacing_s = spacing_s
        domain.next_start_s = now_s + spacing_s
        for worker in domain.shares:
            self._grant(worker).paces[name] = spacing_s

    def _end_tickets(self, worker: int, demand: Demand, now_s: float) -> None:
        for name in demand.started:
            domain = self._domains[name]
            if domain.ticket == worker:
                domain.ticket = None
                domain.next_start_s = now_s + domain.spacing_s
                domain.shares[worker] = share = domain.shares.pop(worker)
                share.recalled = 0
        for name in demand.unused:
            if self._domains[name].ticket == worker:
                self._domains[name].ticket = None

    def _take_back(self, worker: int, name: str, wanted: int, returned: int, now_s: float) -> None:
        domain = self._domain(name)
        share = domain.shares.get(worker)
        if share is None:
            share = domain.shares[worker] = Share()
            self._introduce(worker, name, domain, now_s)
        share.wanted = wanted
        if returned:
            share.held -= returned
            share.recalled = max(0, share.recalled - returned)
            domain.shares[worker] = domain.shares.pop(worker)
        if not wanted and not share.held:
            del domain.shares[worker]

    def _introduce(self, worker: int, name: str, domain: LeasedDomain, now_s: float) -> None:
        """Tell a worker that is new to a domain what others have met there."""
        if domain.spacing_s and self._http.preset(name).delay_s is None:
            self._grant(worker).paces[name] = domain.spacing_s
        if domain.rest is not None and now_s < domain.rest_ends_s:
            left = Rest(domain.rest_ends_s - now_s, domain.rest.holds, domain.rest.is_closed)
            self._grant(worker).rests[name] = left

    def _rest(self, worker: int, name: str, rest: Rest, now_s: float) -> None:
        domain = self._domain(name)
        if now_s + rest.seconds <= domain.rest_ends_s:
            return
        domain.rest, domain.rest_ends_s = rest, now_s + rest.seconds
        for other in domain.shares:
            if other != worker:
                self._grant(other).rests[name] = rest
        if not domain.shares:
            self._idle.add(name)

    def _tell_others(self, worker: int, name: str, dead: Dead) -> None:
        domain = self._domains.get(name)
        for other in domain.shares if domain is not None else ():
            if other != worker:
                self._grant(other).dead[name] = dead

    def _slow(self, name: str, now_s: float) -> None:
        domain = self._domain(name)
        if now_s - domain.changed_s >= CUT_EVERY_S:
            domain.allowed = max(1, domain.allowed // 2)
            domain.changed_s = now_s
            if domain.allowed < domain.limit:
                self._slowed.add(name)

    def _rise(self, name: str, domain: LeasedDomain, now_s: float) -> None:
        if now_s - domain.changed_s < RISE_EVERY_S:
            return
        domain.changed_s = now_s
        domain.allowed = min(domain.limit, domain.allowed + 1)
        if domain.allowed == domain.limit:
            self._slowed.discard(name)
        self._deal(name, now_s)

    def _deal(self, name: str, now_s: float) -> None:
        """Hand out what is free, and call back what others should have."""
        domain = self._domains[name]
        if not domain.shares:
            self._leave(name, domain, now_s)
            return
        self._idle.discard(name)
        if domain.spacing_s:
            self._give_ticket(name, domain, now_s)
        else:
            self._give_places(name, domain, now_s)
            if len(domain.shares) > 1 or domain.free < 0:
                self._recall(name, domain, surplus(domain))
        for share in domain.shares.values():
            if share.wanted and not share.held:
                self._contended.add(name)
                return
        self._contended.discard(name)

    def _leave(self, name: str, domain: LeasedDomain, now_s: float) -> None:
        """Forget a domain that nobody wants, as soon as nothing is to be remembered of it."""
        self._contended.discard(name)
        if domain.is_forgettable(now_s):
            self._idle.discard(name)
            del self._domains[name]
        else:
            self._idle.add(name)

    def _give_ticket(self, name: str, domain: LeasedDomain, now_s: float) -> None:
        if domain.ticket is not None or domain.free <= 0:
            return
        worker = domain.neediest()
        if worker is not None:
            share = domain.shares[worker]
            share.held += 1
            share.recalled, share.since_s = 0, max(now_s, domain.next_start_s)
            domain.ticket = worker
            self._grant(worker).tickets[name] = max(0.0, domain.next_start_s - now_s)

    def _give_places(self, name: str, domain: LeasedDomain, now_s: float) -> None:
        free = domain.free
        is_alone = len(domain.shares) == 1
        while free > 0:
            worker = domain.neediest()
            if worker is None:
                return
            share = domain.shares[worker]
            more = min(free, share.wanted - share.held) if is_alone else 1
            share.held += more
            share.since_s = now_s
            free -= more
            places = self._grant(worker).places
            places[name] = places.get(name, 0) + more

    def _recall(self, name: str, domain: LeasedDomain, count: int) -> None:
        """Call places back, each from the worker that keeps most."""
        even = 0 if domain.free < 0 else max(1, domain.allowed // len(domain.shares))
        for _ in range(count):
            worker = max(domain.shares, key=lambda worker: domain.shares[worker].kept)
            if domain.shares[worker].kept <= even:
                return
            self._recall_from(worker, name, domain.shares[worker])

    def _recall_from(self, worker: int, name: str, share: Share) -> None:
        share.recalled += 1
        recalls = self._grant(worker).recalls
        recalls[name] = recalls.get(name, 0) + 1

    def _take_turns(self, name: str, domain: LeasedDomain, now_s: float) -> None:
        """Call back what was held for long, for those that have nothing."""
        waiting = sum(1 for share in domain.shares.values() if share.wanted and not share.held)
        waiting -= sum(share.recalled for share in domain.shares.values())
        for worker in by_age(domain):
            share = domain.shares[worker]
            may_be_recalled = domain.ticket == worker if domain.spacing_s else share.kept > 0
            if waiting > 0 and may_be_recalled and not share.recalled and now_s - share.since_s >= TURN_S:
                self._recall_from(worker, name, share)
                waiting -= 1
