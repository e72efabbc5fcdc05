"""The limit of a domain as the rate limiter keeps it: its permits, which workers have them, who should return some."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from turbo_fetch.fetch.allocations import Cooldown


@dataclass(slots=True)
class Share:
    """What one worker has of a domain."""

    wanted: int = 0
    """Permits that the worker could use, those that it has included."""
    held: int = 0
    revoked: int = 0
    """Of the permits held, those that were revoked."""
    since_s: float = 0.0
    """When the last permit was given."""

    @property
    def kept(self) -> int:
        """Permits that were not revoked."""
        return self.held - self.revoked


@dataclass(slots=True)
class DomainLimit:
    """The permits of a domain, and who has them."""

    limit: int
    allowed: int
    """Permits now: fewer than the limit after the domain was asked too fast."""
    min_interval_s: float = 0.0
    shares: dict[int, Share] = field(default_factory=dict)
    """By worker; of several in the same need, the first is the next."""
    lost: int = 0
    """Permits of workers that died."""
    unaware: set[int] = field(default_factory=set)
    """Workers that may still start requests without a token, for they have yet to hear of the interval."""
    token_holder: int | None = None
    """The worker that has the token and has not used it."""
    next_start_s: float = 0.0
    changed_s: float = 0.0
    """When `allowed` changed."""
    cooldown: Cooldown | None = None
    cooldown_ends_s: float = 0.0

    @property
    def free(self) -> int:
        """Permits that nobody has; below 0 if too many are out since `allowed` fell."""
        free = self.allowed - self.lost
        for share in self.shares.values():
            free -= share.held
        return free

    def neediest(self) -> int | None:
        """Return the worker that wants a permit most."""
        found, least = None, math.inf
        for worker, share in self.shares.items():
            if share.held < least and share.held < share.wanted:
                found, least = worker, share.held
        return found

    def is_forgettable(self, now_s: float) -> bool:
        """Whether nothing is left to be remembered of it."""
        if self.shares or self.lost or self.allowed < self.limit:
            return False
        return now_s >= self.next_start_s and now_s >= self.cooldown_ends_s


def surplus(domain: DomainLimit) -> int:
    """Return how many permits should be revoked: those over the number allowed, and those others are due."""
    shares = domain.shares.values()
    revoked = sum(share.revoked for share in shares)
    even = max(1, domain.allowed // len(shares))
    due = sum(max(0, min(share.wanted, even) - share.held) for share in shares)
    free = domain.free
    return max(due - max(0, free), -free) - revoked


def by_age(domain: DomainLimit) -> list[int]:
    """Return the workers of a domain, first the one whose last permit is the oldest."""
    return sorted(domain.shares, key=lambda worker: domain.shares[worker].since_s)
