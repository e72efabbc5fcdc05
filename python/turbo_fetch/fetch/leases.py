"""What workers and their parent say to each other about domains, so that all workers together keep its limits.

The parent leases *places*: each is the right to have one request in flight to a domain. A domain with a pace (a
Crawl-delay or `delay_s`) has *tickets* instead: a place for one request, with the time before which it must not begin.
:mod:`turbo_fetch.runners.lessor` hands out, :mod:`turbo_fetch.fetch.tenant` asks; domains are named, and whatever
concerns several of them travels together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from turbo_fetch.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Rest:
    """What a domain wants that refuses requests: to be left alone for some `seconds`."""

    seconds: float
    holds: int
    """How many rests in a row this is."""
    is_closed: bool = False
    """Whether rows end meanwhile, rather than wait."""


class Dead(NamedTuple):
    """A host of a domain that cannot be reached, by its origin, and the failure that was seen last."""

    origin: str
    outcome: Outcome
    detail: str


@dataclass(slots=True)
class Demand:
    """Worker → parent: answered by one Grant; its parts count in the order in which they stand here."""

    paces: dict[str, float] = field(default_factory=dict)
    """Seconds from start to start that a domain was found to ask for."""
    started: list[str] = field(default_factory=list)
    """Domains whose ticket was used."""
    unused: list[str] = field(default_factory=list)
    """Domains whose ticket is among the places given back."""
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Places that could be used now in all, 0 for none any more; and places that are given back."""
    slowed: list[str] = field(default_factory=list)
    """Domains that were asked too fast."""
    rests: dict[str, Rest] = field(default_factory=dict)
    dead: dict[str, Dead] = field(default_factory=dict)


@dataclass(slots=True)
class Grant:
    """Parent → worker: what it may do from now on."""

    answers: int = 0
    """How many Demands of the worker this answers."""
    paces: dict[str, float] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    """Places that are added."""
    recalls: dict[str, int] = field(default_factory=dict)
    """Places to give back as soon as they are free; for a domain with a pace, the ticket if it is not used yet."""
    tickets: dict[str, float] = field(default_factory=dict)
    """One ticket, to be used after so many seconds from now."""
    rests: dict[str, Rest] = field(default_factory=dict)
    dead: dict[str, Dead] = field(default_factory=dict)
