"""A domain in the books of the lessor: how many places it has, who holds them, who should give some back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from turbo_fetch.fetch.leases import Rest


@dataclass(slots=True)
class Share:
    """What one worker has of a domain."""

    wanted: int = 0
    """Places that the worker could use, those that it holds included."""
    held: int = 0
    recalled: int = 0
    """Of the places held, those that were called back."""
    since_s: float = 0.0
    """When the last place was given."""

    @property
    def kept(self) -> int:
        """Places that were not called back."""
        return self.held - self.recalled


@dataclass(slots=True)
class LeasedDomain:
    """The places of a domain, and who has them."""

    limit: int
    allowed: int
    """Places now: fewer than the limit after the domain was asked too fast."""
    spacing_s: float = 0.0
    shares: dict[int, Share] = field(default_factory=dict)
    """By worker; of several in the same need, the first is the next."""
    lost: int = 0
    """Places of workers that died."""
    ticket: int | None = None
    """The worker that has the ticket and has not used it."""
    next_start_s: float = 0.0
    changed_s: float = 0.0
    """When `allowed` changed."""
    rest: Rest | None = None
    rest_ends_s: float = 0.0

    @property
    def free(self) -> int:
        """Places that nobody has; below 0 if too many are out since `allowed` fell."""
        free = self.allowed - self.lost
        for share in self.shares.values():
            free -= share.held
        return free

    def neediest(self) -> int | None:
        """Return the worker that wants a place most."""
        found, least = None, math.inf
        for worker, share in self.shares.items():
            if share.held < least and share.held < share.wanted:
                found, least = worker, share.held
        return found

    def is_forgettable(self, now_s: float) -> bool:
        """Whether nothing is left to be remembered of it."""
        if self.shares or self.lost or self.allowed < self.limit:
            return False
        return now_s >= self.next_start_s and now_s >= self.rest_ends_s


def surplus(domain: LeasedDomain) -> int:
    """Return how many places should be called back: those over the number allowed, and those others are due."""
    shares = domain.shares.values()
    recalled = sum(share.recalled for share in shares)
    even = max(1, domain.allowed // len(shares))
    due = sum(max(0, min(share.wanted, even) - share.held) for share in shares)
    free = domain.free
    return max(due - max(0, free), -free) - recalled


def by_age(domain: LeasedDomain) -> list[int]:
    """Return the workers of a domain, first the one whose last place is the oldest."""
    return sorted(domain.shares, key=lambda worker: domain.shares[worker].since_s)
