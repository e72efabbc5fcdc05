"""Issues permits for domains to workers: never more than a domain allows, to all who want some in turn.

Pure bookkeeping: time is passed in, messages come out. Safe because both sides err in the same direction: a permit
counts as held here from before its worker hears of it until after the worker has given it up.

A worker that wants a domain alone has all of its permits. When another one comes, those above an even share are
revoked, each to be returned when its request ends. Where there are fewer permits than workers, a permit is revoked when
its worker has had it for TURN_S. Requests of a worker that died may go on for a while at the server; its permits
are of use again when that is over.
"""

from __future__ import annotations

from typing import Final

from turbo_fetch.fetch.allocations import Cooldown, DeadHost, Demand, Grant
from turbo_fetch.runners.domain_limit import DomainLimit, Share, by_age, surplus
from turbo_fetch.spec import HttpSpec

TURN_S: Final = 1.0
CUT_EVERY_S: Final = 1.0
"""Several workers that are refused at the same time have met the same trouble."""
RAISE_EVERY_S: Final = 1.0
LINGER_S: Final = 1.0
"""How long a server may take to see that a client is gone whose connections are closed."""


class RateLimiter:
    """The allocations of all domains. Times are seconds of one clock that does not go back."""

    def __init__(self, http: HttpSpec) -> None:
        self._http = http
        self._domains: dict[str, DomainLimit] = {}
        self._grants: dict[int, Grant] = {}
        self._idle: set[str] = set()
        """Domains that nobody wants and of which something is remembered."""
        self._contended: set[str] = set()
        """Domains that a worker wants and has no permit of."""
        self._slowed: set[str] = set()
        self._losses: list[tuple[float, str, int]] = []

    @property
    def is_idle(self) -> bool:
        """Whether nothing is allocated or remembered."""
        return not self._domains

    def grants(self) -> dict[int, Grant]:
        """Return what there is to send, by worker, and forget it."""
        grants, self._grants = self._grants, {}
        return grants

    def take(self, worker: int, demand: Demand, now_s: float) -> None:
        """Take what a worker says."""
        self._grant(worker).answers += 1
        for name, min_interval_s in demand.min_intervals_s.items():
            self._set_min_interval(worker, name, min_interval_s, now_s)
        known = [name for name in demand.known_intervals if name in self._domains]
        for name in known:
            self._domains[name].unaware.discard(worker)
        self._settle_tokens(worker, demand, now_s)
        for name in demand.slowed:
            self._slow_down(name, now_s)
        for name, (wanted, returned) in demand.permits.items():
            self._take_back(worker, name, wanted, returned, now_s)
        for name, cooldown in demand.cooldowns.items():
            self._cool_down(worker, name, cooldown, now_s)
        for name, dead in demand.dead_hosts.items():
            self._tell_others(worker, name, dead)
        for name in {*demand.min_intervals_s, *known, *demand.used_tokens, *demand.slowed, *demand.permits}:
            self._distribute(name, now_s)

    def worker_ended(self, worker: int, lingers_s: float, now_s: float) -> None:
        """Take note that a worker is gone, whose requests may go on for `lingers_s`."""
        self._grants.pop(worker, None)
        for name, domain in list(self._domains.items()):
            domain.unaware.discard(worker)
            share = domain.shares.pop(worker, None)
            if share is None:
                continue
            if domain.token_holder == worker:
                domain.token_holder = None
                domain.next_start_s = now_s + lingers_s + domain.min_interval_s
            if share.held:
                domain.lost += share.held
                self._losses.append((now_s + lingers_s, name, share.held))
            self._distribute(name, now_s)

    def tick(self, now_s: float) -> None:
        """Do what the time has come for; to be called a few times a second."""
        due = [loss for loss in self._losses if loss[0] <= now_s]
        if due:
            self._losses = [loss for loss in self._losses if loss[0] > now_s]
        for _, name, permits in due:
            self._domains[name].lost -= permits
            self._distribute(name, now_s)
        for name in list(self._contended):
            self._take_turns(name, self._domains[name], now_s)
        for name in list(self._slowed):
            self._speed_up(name, self._domains[name], now_s)
        for name in list(self._idle):
            self._forget_if_idle(name, self._domains[name], now_s)

    def _grant(self, worker: int) -> Grant:
        grant = self._grants.get(worker)
        if grant is None:
            grant = self._grants[worker] = Grant()
        return grant

    def _domain(self, name: str) -> DomainLimit:
        domain = self._domains.get(name)
        if domain is None:
            preset = self._http.preset(name)
            limit = self._http.limit_of(preset) or self._http.concurrency
            domain = DomainLimit(limit, limit, preset.delay_s or 0.0)
            self._domains[name] = domain
        return domain

    def _set_min_interval(self, worker: int, name: str, min_interval_s: float, now_s: float) -> None:
        domain = self._domain(name)
        if min_interval_s <= domain.min_interval_s:
            return
        if not domain.min_interval_s:
            domain.unaware = domain.shares.keys() - {worker}
        domain.next_start_s = max(domain.next_start_s, now_s) + min_interval_s - domain.min_interval_s
        domain.min_interval_s = min_interval_s
        for other in domain.shares:
            self._grant(other).min_intervals_s[name] = min_interval_s

    def _settle_tokens(self, worker: int, demand: Demand, now_s: float) -> None:
        for name in demand.used_tokens:
            domain = self._domains[name]
            if domain.token_holder == worker:
                domain.token_holder = None
                domain.next_start_s = now_s + domain.min_interval_s
                domain.shares[worker] = share = domain.shares.pop(worker)
                share.revoked = 0
        for name in demand.unused_tokens:
            if self._domains[name].token_holder == worker:
                self._domains[name].token_holder = None

    def _take_back(self, worker: int, name: str, wanted: int, returned: int, now_s: float) -> None:
        domain = self._domain(name)
        share = domain.shares.get(worker)
        if share is None:
            share = domain.shares[worker] = Share()
            self._inform(worker, name, domain, now_s)
        share.wanted = wanted
        if returned:
            share.held -= returned
            share.revoked = max(0, share.revoked - returned)
            domain.shares[worker] = domain.shares.pop(worker)
        if not wanted and not share.held:
            del domain.shares[worker]

    def _inform(self, worker: int, name: str, domain: DomainLimit, now_s: float) -> None:
        """Tell a worker that is new to a domain what others have met there."""
        if domain.min_interval_s and self._http.preset(name).delay_s is None:
            self._grant(worker).min_intervals_s[name] = domain.min_interval_s
        if domain.cooldown is not None and now_s < domain.cooldown_ends_s:
            left = Cooldown(
                domain.cooldown_ends_s - now_s, domain.cooldown.in_a_row, domain.cooldown.is_closed
            )
            self._grant(worker).cooldowns[name] = left

    def _cool_down(self, worker: int, name: str, cooldown: Cooldown, now_s: float) -> None:
        domain = self._domain(name)
        if now_s + cooldown.seconds <= domain.cooldown_ends_s:
            return
        domain.cooldown, domain.cooldown_ends_s = cooldown, now_s + cooldown.seconds
        for other in domain.shares:
            if other != worker:
                self._grant(other).cooldowns[name] = cooldown
        if not domain.shares:
            self._idle.add(name)

    def _tell_others(self, worker: int, name: str, dead: DeadHost) -> None:
        domain = self._domains.get(name)
        for other in domain.shares if domain is not None else ():
            if other != worker:
                self._grant(other).dead_hosts[name] = dead

    def _slow_down(self, name: str, now_s: float) -> None:
        domain = self._domain(name)
        if now_s - domain.changed_s >= CUT_EVERY_S:
            domain.allowed = max(1, domain.allowed // 2)
            domain.changed_s = now_s
            if domain.allowed < domain.limit:
                self._slowed.add(name)

    def _speed_up(self, name: str, domain: DomainLimit, now_s: float) -> None:
        if now_s - domain.changed_s < RAISE_EVERY_S:
            return
        domain.changed_s = now_s
        domain.allowed = min(domain.limit, domain.allowed + 1)
        if domain.allowed == domain.limit:
            self._slowed.discard(name)
        self._distribute(name, now_s)

    def _distribute(self, name: str, now_s: float) -> None:
        """Issue what is free, and revoke what others should have."""
        domain = self._domains[name]
        if not domain.shares:
            self._forget_if_idle(name, domain, now_s)
            return
        self._idle.discard(name)
        if domain.min_interval_s:
            self._issue_token(name, domain, now_s)
        else:
            self._issue_permits(name, domain, now_s)
            if len(domain.shares) > 1 or domain.free < 0:
                self._revoke(name, domain, surplus(domain))
        for share in domain.shares.values():
            if share.wanted and not share.held:
                self._contended.add(name)
                return
        self._contended.discard(name)

    def _forget_if_idle(self, name: str, domain: DomainLimit, now_s: float) -> None:
        """Forget a domain that nobody wants, as soon as nothing is to be remembered of it."""
        self._contended.discard(name)
        if domain.is_forgettable(now_s):
            self._idle.discard(name)
            del self._domains[name]
        else:
            self._idle.add(name)

    def _issue_token(self, name: str, domain: DomainLimit, now_s: float) -> None:
        if domain.token_holder is not None or domain.unaware or domain.free <= 0:
            return
        worker = domain.neediest()
        if worker is not None:
            share = domain.shares[worker]
            share.held += 1
            share.revoked, share.since_s = 0, max(now_s, domain.next_start_s)
            domain.token_holder = worker
            self._grant(worker).tokens[name] = max(0.0, domain.next_start_s - now_s)

    def _issue_permits(self, name: str, domain: DomainLimit, now_s: float) -> None:
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
            permits = self._grant(worker).permits
            permits[name] = permits.get(name, 0) + more

    def _revoke(self, name: str, domain: DomainLimit, count: int) -> None:
        """Revoke permits, each from the worker that keeps most."""
        even = 0 if domain.free < 0 else max(1, domain.allowed // len(domain.shares))
        for _ in range(count):
            worker = max(domain.shares, key=lambda worker: domain.shares[worker].kept)
            if domain.shares[worker].kept <= even:
                return
            self._revoke_from(worker, name, domain.shares[worker])

    def _revoke_from(self, worker: int, name: str, share: Share) -> None:
        share.revoked += 1
        revocations = self._grant(worker).revocations
        revocations[name] = revocations.get(name, 0) + 1

    def _take_turns(self, name: str, domain: DomainLimit, now_s: float) -> None:
        """Revoke what was held for long, for those that have nothing."""
        waiting = sum(1 for share in domain.shares.values() if share.wanted and not share.held)
        waiting -= sum(share.revoked for share in domain.shares.values())
        for worker in by_age(domain):
            share = domain.shares[worker]
            may_be_revoked = domain.token_holder == worker if domain.min_interval_s else share.kept > 0
            if waiting > 0 and may_be_revoked and not share.revoked and now_s - share.since_s >= TURN_S:
                self._revoke_from(worker, name, share)
                waiting -= 1
