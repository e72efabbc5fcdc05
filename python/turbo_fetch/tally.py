"""Counts of what happens, cheap enough to make for every row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """What a worker added since its last tally, and how things stand; sent twice a second."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Rows that ended, by the label of their outcome."""
    recovered: int = 0
    """Rows found in spools of an earlier run."""
    body_bytes: int = 0
    """Bytes of bodies received."""
    retries: int = 0
    """Attempts beyond the first of the rows that ended."""
    in_flight: int = 0
    """Requests under way now."""
    waiting: int = 0
    """Rows that wait for a busy domain or for their next attempt now."""
    open_shards: int = 0
    """Shards begun and not committed now."""
    memory_bytes: int = 0
    """Resident memory of the worker now."""

    @property
    def rows(self) -> int:
        """Rows that ended."""
        return self.outcomes.total()
