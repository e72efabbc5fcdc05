"""When a run stops because this side fails, not the hosts: a pure decision over what the workers tell.

Rows that fail for want of a network, a resolver or a proxy, while nobody answers, are deferred by the workers, so that
nothing of them is recorded (:mod:`turbo_fetch.fetch.deferred_rows`). When they are many, there is no use in going on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from turbo_fetch.causes import GIVEN_UP, Cause, Reason, cause_of
from turbo_fetch.progress.tally import Tally

HELD_TO_STOP: Final = 1000
"""Rows that must be deferred for one cause."""
DOMAINS_TO_STOP: Final = 5
"""Domains that they must be of, since one that is broken may have thousands of rows; a proxy fails for all of them."""
PATIENCE_S: Final = 60.0
"""How long a run is waited for that had answers before."""


@dataclass(slots=True)
class Outage:
    """What the workers of a run hold back, and whether anybody answers them; the clock is passed in."""

    deferred: dict[int, Counter[Reason]] = field(default_factory=dict)
    """The rows that each worker holds back now, by reason."""
    domains: dict[int, int] = field(default_factory=dict)
    answered_s: float | None = None
    """When somebody answered last, if ever."""

    def heard(self, worker: int, tally: Tally, now_s: float) -> None:
        """Take what a worker tells."""
        self.deferred[worker] = tally.deferred
        self.domains[worker] = tally.deferred_domains
        if tally.answers:
            self.answered_s = now_s

    def gone(self, worker: int) -> None:
        """Forget a worker that died, whose rows others will ask for."""
        self.deferred.pop(worker, None)
        self.domains.pop(worker, None)

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
        if self.cause() is None:
            return False
        quiet_s = self.quiet_s(now_s)
        return quiet_s is None or quiet_s >= PATIENCE_S

    def text(self) -> str:
        """Say why the run stopped and what to do; there is a cause."""
        cause = self.cause()
        assert cause is not None
        reasons: Counter[Reason] = Counter()
        for each in self.deferred.values():
            reasons.update({reason: count for reason, count in each.items() if cause_of(reason) == cause})
        often = reasons.most_common(1)[0][0].partition(": ")[2].removesuffix(GIVEN_UP)
        return (
            f"stopped: {reasons.total():,} rows failed in a row, and no server responded meanwhile: {often}. "
            f"{REMEDIES[cause]} These rows are not recorded; run the same command again to resume"
        )


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
