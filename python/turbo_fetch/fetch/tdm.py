"""Reservations of text and data mining: the TDM Reservation Protocol.

https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240202/: a response says `tdm-reservation: 1` or `0`;
where it is silent, the host's /.well-known/tdmrep.json counts, and of its rules the first that matches.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from turbo_fetch.fetch.patterns import BYTES_PER_RULE, PathPattern, comparable

PATH: Final = "/.well-known/tdmrep.json"
MAX_RULES: Final = 1000


class Reservations:
    """What the file says of paths: `rules` in its order."""

    def __init__(self, rules: Iterable[tuple[str, bool]]) -> None:
        self._rules = [(PathPattern(location), is_reserved) for location, is_reserved in rules]
        self.memory_bytes = sum(BYTES_PER_RULE + 2 * len(pattern.text) for pattern, _ in self._rules)
        """About how much memory the rules take."""

    @property
    def is_silent(self) -> bool:
        """Whether nothing is said."""
        return not self._rules

    def reserve(self, path: str) -> bool:
        """Return whether the use of a path, with its query, is reserved."""
        path = comparable(path)
        return next((is_reserved for pattern, is_reserved in self._rules if pattern.matches(path)), False)


def header_reserves(value: str | None) -> bool | None:
    """Return what the header says, None if it says nothing."""
    return {"1": True, "0": False}.get(value.strip()) if value is not None else None


def parse_reservations(text: str) -> Reservations:
    """Read the file; what is not as the protocol says is passed over."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return Reservations(())
    entries = found if isinstance(found, list) else [found]
    return Reservations(
        (entry["location"], str(entry["tdm-reservation"]) == "1")
        for entry in entries[:MAX_RULES]
        if isinstance(entry, dict)
        and isinstance(entry.get("location"), str)
        and str(entry.get("tdm-reservation")) in {"0", "1"}
    )
