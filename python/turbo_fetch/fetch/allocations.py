"""The protocol by which workers share the limits of domains: all workers together keep them.

The parent issues *permits*: each is the right to have one request in flight to a domain. A domain with a minimum
interval between requests (a Crawl-delay or `delay_s`) has *tokens* instead: a permit for one request, with the time
before which it must not begin. :mod:`turbo_fetch.runners.rate_limiter` issues,
:mod:`turbo_fetch.fetch.limiter_client` asks; domains are named, and whatever concerns several of them travels
together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from turbo_fetch.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Cooldown:
    """How long a domain that refuses requests is left alone."""

    seconds: float
    in_a_row: int
    """Which of several cooldowns in a row this is."""
    is_closed: bool = False
    """Whether rows end meanwhile, rather than wait."""


class DeadHost(NamedTuple):
    """A host of a domain that cannot be reached, by its origin, and the failure that was seen last."""

    origin: str
    outcome: Outcome
    detail: str


@dataclass(slots=True)
class Demand:
    """Worker → parent: answered by one Grant; its parts count in the order in which they stand here."""

    min_intervals_s: dict[str, float] = field(default_factory=dict)
    """Seconds from start to start that a domain was found to ask for."""
    known_intervals: list[str] = field(default_factory=list)
    """Domains of whose minimum interval the worker was told: it starts nothing there without a token any more."""
    used_tokens: list[str] = field(default_factory=list)
    """Domains whose token was used."""
    unused_tokens: list[str] = field(default_factory=list)
    """Domains whose token is among the permits that are returned."""
    permits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Permits that could be used now in all, 0 for none any more; and permits that are returned."""
    slowed: list[str] = field(default_factory=list)
    """Domains that were asked too fast."""
    cooldowns: dict[str, Cooldown] = field(default_factory=dict)
    dead_hosts: dict[str, DeadHost] = field(default_factory=dict)


@dataclass(slots=True)
class Grant:
    """Parent → worker: what it may do from now on."""

    answers: int = 0
    """How many Demands of the worker this answers."""
    min_intervals_s: dict[str, float] = field(default_factory=dict)
    permits: dict[str, int] = field(default_factory=dict)
    """Permits that are added."""
    revocations: dict[str, int] = field(default_factory=dict)
    """Permits to return as soon as they are free; for a domain with a minimum interval, the token if it is unused."""
    tokens: dict[str, float] = field(default_factory=dict)
    """One token, to be used after so many seconds from now."""
    cooldowns: dict[str, Cooldown] = field(default_factory=dict)
    dead_hosts: dict[str, DeadHost] = field(default_factory=dict)
