"""Rows on their way through a pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from turbo_fetch.fetch.fetched import Fetched

Done = Callable[[int, Fetched], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A row to fetch: its index in the shard, its normalised URL, and the domain that shares its limit.

    `headers` are sent besides those of the client.
    """

    row: int
    url: str
    domain: str
    headers: Mapping[str, str] | None = None


@dataclass(slots=True, eq=False)
class Row:
    """A row in the pool, ordered by submission."""

    sequence: int
    request: Request
    done: Done
    attempts: int = 0
    answers: int = 0
    """How often anybody had answered when the row was first asked for."""
    was_held: bool = False

    def __lt__(self, other: Row) -> bool:
        # Heaps compare rows a dozen times each; what dataclasses generate is ten times slower.
        return self.sequence < other.sequence
