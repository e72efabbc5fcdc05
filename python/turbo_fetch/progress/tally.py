"""Counts of what happens, cheap enough to make for every row."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from turbo_fetch.causes import Cause, Reason

SECONDS_EDGES: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper edges of the classes in which the durations of requests are counted, in seconds."""
BYTES_EDGES: Final = (1e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5, 1e6, 2.5e6, 5e6, 1e7, 5e7)
"""Upper edges of the classes in which the sizes of bodies are counted."""


@dataclass(slots=True)
class Histogram:
    """Values counted in classes: class i holds those up to edge i, the last class those above all edges."""

    edges: tuple[float, ...]
    counts: Counter[int] = field(default_factory=Counter)
    total: float = 0.0
    """Sum of all values."""

    def add(self, values: Iterable[float]) -> None:
        """Count values."""
        for value in values:
            self.counts[bisect_left(self.edges, value)] += 1
            self.total += value

    def merge(self, other: Histogram) -> None:
        """Add the counts of a histogram with the same edges."""
        self.counts.update(other.counts)
        self.total += other.total

    def as_list(self) -> list[int]:
        """Return the counts of all classes, one more than there are edges."""
        return [self.counts[number] for number in range(len(self.edges) + 1)]


def request_seconds() -> Histogram:
    """Return an empty histogram of the durations of requests."""
    return Histogram(SECONDS_EDGES)


def body_sizes() -> Histogram:
    """Return an empty histogram of the sizes of bodies."""
    return Histogram(BYTES_EDGES)


@dataclass(slots=True)
class Tally:
    """What a worker added since its last tally, and how things stand; sent twice a second."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Rows that ended, by the label of their outcome."""
    recovered: int = 0
    """Rows found in spools of an earlier run, less those that were counted of shards that were given back."""
    body_bytes: int = 0
    """Bytes of bodies received."""
    retries: int = 0
    """Attempts beyond the first of the rows that ended."""
    seconds: Histogram = field(default_factory=request_seconds)
    """How long the last attempts of the rows that ended took."""
    sizes: Histogram = field(default_factory=body_sizes)
    """Sizes of the bodies that arrived."""
    answers: int = 0
    """Attempts that ended in what only a network that works brings about."""
    deferred: Counter[Reason] = field(default_factory=Counter)
    """Rows that are deferred now, by reason: they failed for a cause on this side while nobody answered."""
    deferred_domains: int = 0
    """Domains that those are of."""
    held: int = 0
    """Rows that wait now until it is known whose fault it was that they failed, or until an outage is over."""
    outage: tuple[Cause, float] | None = None
    """What is out of order on the worker's machine, and for how many seconds; None if there is no outage."""
    answered: dict[str, str] = field(default_factory=dict)
    """A few hosts that answered lately, by domain."""
    has_witnesses: bool = False
    """Whether the worker knows hosts that answered somebody lately, be it the run before."""
    in_flight: int = 0
    """Requests under way now."""
    waiting: int = 0
    """Rows that wait for a busy domain or for their next attempt now."""
    open_shards: dict[int, int] = field(default_factory=dict)
    """Shards begun and not committed now, each with its rows that have ended."""
    to_score: int = 0
    """Images that wait for the function of `[fetch.score]` now."""
    memory_bytes: int = 0
    """Resident memory of the worker now."""
    cpu_s: float = 0.0
    """Processor time of the worker since it started, in seconds."""
    open_files: int = 0
    """Files and sockets that the worker has open now."""
    pid: int = 0
    """Process id of the worker, on its machine."""

    @property
    def rows(self) -> int:
        """Rows that ended."""
        return self.outcomes.total()
