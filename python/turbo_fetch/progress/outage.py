"""What a run does when this side fails, not the hosts: pure decisions over what the workers tell.

Rows that fail for want of a network, a resolver or a proxy are held by the workers, so that nothing of them is recorded
(:mod:`turbo_fetch.fetch.network`). An outage is waited for; when nobody ever answered, or it lasts for too long, there
is no use in going on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from turbo_fetch.causes import GIVEN_UP, Cause, Reason, cause_of
from turbo_fetch.progress.summary import human_time
from turbo_fetch.progress.tally import Tally

HELD_TO_STOP: Final = 1000
"""Rows that must be held for one cause where no worker knows of an outage."""
DOMAINS_TO_STOP: Final = 5
"""Domains that they must be of, since one that is broken may have thousands of rows; a proxy fails for all of them."""
PATIENCE_S: Final = 60.0
"""How long a run is waited for then that had answers before."""
FIRST_PATIENCE_S: Final = 5.0
"""How long an outage may last from which a run begins, if nobody answered the run before either."""


@dataclass(slots=True)
class Outage:
    """What the workers of a run hold back, and whether anybody answers them; the clock is passed in."""

    patience_s: float
    """How long an outage of all workers is waited for."""
    deferred: dict[int, Counter[Reason]] = field(default_factory=dict)
    """The rows that each worker holds back now, by reason."""
    domains: dict[int, int] = field(default_factory=dict)
    down: dict[int, tuple[Cause, float] | None] = field(default_factory=dict)
    """What is out of order for each worker, and for how many seconds."""
    answered_s: float | None = None
    """When somebody answered last, if ever."""
    has_witnesses: bool = False
    """Whether somebody answered a worker, or the run before, lately."""

    def heard(self, worker: int, tally: Tally, now_s: float) -> None:
        """Take what a worker tells."""
        self.deferred[worker] = tally.deferred
        self.domains[worker] = tally.deferred_domains
        self.down[worker] = tally.outage
        self.has_witnesses |= tally.has_witnesses
        if tally.answers:
            self.answered_s = now_s

    def gone(self, worker: int) -> None:
        """Forget a worker that ended, whose rows others will ask for."""
        for of_workers in (self.deferred, self.domains, self.down):
            of_workers.pop(worker, None)

    @property
    def workers_down(self) -> int:
        """Workers that have an outage now."""
        return sum(1 for each in self.down.values() if each is not None)

    def down_cause(self) -> Cause | None:
        """Return what is out of order for most workers that have an outage."""
        causes = Counter(each[0] for each in self.down.values() if each is not None)
        return causes.most_common(1)[0][0] if causes else None

    def down_s(self) -> float:
        """Return for how many seconds all workers have had an outage, 0 if one has none."""
        return min((0.0 if each is None else each[1] for each in self.down.values()), default=0.0)

    def longest_s(self) -> float:
        """Return for how many seconds a worker has had an outage, at most."""
        return max((each[1] for each in self.down.values() if each is not None), default=0.0)

    def cause(self) -> Cause | None:
        """Return the cause for which so many rows are held back that it must be that of all, if there is one."""
        causes: Counter[Cause] = Counter()
        for reasons in self.deferred.values():
            for reason, count in reasons.items():
                if (cause := cause_of(reason)) is not None:
                    causes[cause] += count
        if not causes:
            return None
        cause, count = causes.most_common(1)[0]
        is_general = cause == "proxy" or max(self.domains.values(), default=0) >= DOMAINS_TO_STOP
        return cause if count >= HELD_TO_STOP and is_general else None

    def quiet_s(self, now_s: float) -> float | None:
        """Return the seconds since the last answer, None if there never was one."""
        return None if self.answered_s is None else now_s - self.answered_s

    def is_hopeless(self, now_s: float) -> bool:
        """Whether the run is to stop: nobody ever answered, or nobody has for long."""
        quiet_s = self.quiet_s(now_s)
        if self.workers_down:
            had_network = self.has_witnesses or quiet_s is not None
            return self.down_s() >= (self.patience_s if had_network else FIRST_PATIENCE_S)
        if self.cause() is None:
            return False
        return quiet_s is None or quiet_s >= PATIENCE_S

    def text(self) -> str:
        """Say why the run stopped and what to do; it is hopeless."""
        cause = self.down_cause() or self.cause()
        assert cause is not None
        reasons: Counter[Reason] = Counter()
        for each in self.deferred.values():
            reasons.update({reason: count for reason, count in each.items() if cause_of(reason) == cause})
        often = reasons.most_common(1)[0][0].partition(": ")[2].removesuffix(GIVEN_UP) if reasons else ""
        what = f"{reasons.total():,} rows failed in a row, and no server responded meanwhile: {often}"
        if not reasons:
            what = f"no server has responded for {human_time(self.down_s())}"
        return f"stopped: {what}. {REMEDIES[cause]} These rows are not recorded; run the same command again to resume"


OUTAGES: Final[dict[Cause, str]] = {
    "proxy": "the proxy does not respond",
    "tunnel": "nothing gets through the proxy",
    "resolver": "names cannot be resolved",
    "network": "this machine reaches no host",
}
"""What is out of order, in words."""

REMEDIES: Final[dict[Cause, str]] = {
    "proxy": (
        "The proxy fails, not the hosts: check it (turbo-fetch doctor tests it), and fetch.http.proxy or "
        "HTTP_PROXY and HTTPS_PROXY."
    ),
    "tunnel": (
        "Nothing gets through the proxy: check it (turbo-fetch doctor tests it), and fetch.http.proxy or "
        "HTTP_PROXY and HTTPS_PROXY."
    ),
    "resolver": (
        "No name can be resolved: check the network and /etc/resolv.conf (turbo-fetch doctor measures the resolver). "
        "If the internet is only reachable through a proxy, set fetch.http.proxy."
    ),
    "network": (
        "This machine reaches no host: check its network, routes and firewall. If the internet is only reachable "
        "through a proxy, set fetch.http.proxy."
    ),
}
