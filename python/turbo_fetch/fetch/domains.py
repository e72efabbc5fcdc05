"""What the rows of one domain share: places, and the patience of a server that refuses requests.

One refusal (429, or a 5xx with Retry-After) concerns its row alone. Several in a row, with no other answer
between them, mean that the server wants rest: the domain is held, for longer each time. A server that asks
for more rest than the spec allows, or refuses after every hold, is closed: it is not asked again in this run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from turbo_fetch.fetch.policy import backoff_ceiling_s
from turbo_fetch.spec import HttpSpec

REFUSALS_TO_HOLD: Final = 3
HOLDS_TO_CLOSE: Final = 8

RowT = TypeVar("RowT")


@dataclass(slots=True)
class Domain(Generic[RowT]):
    """State of one domain in a pool. `parked` is a heap of rows that wait for a place."""

    active: int = 0
    parked: list[RowT] = field(default_factory=list)
    is_held: bool = False
    is_closed: bool = False
    _refusals: int = 0
    _holds: int = 0

    def places(self, http: HttpSpec) -> int:
        """Return how many more requests may start now."""
        return 0 if self.is_held else (http.per_domain or http.concurrency) - self.active

    @property
    def is_idle(self) -> bool:
        """Whether nothing is worth remembering."""
        return not (self.active or self.parked or self.is_held or self.is_closed or self._refusals)

    def answered(self) -> None:
        """Note an answer that was not a refusal."""
        self._refusals = self._holds = 0

    def refused(self, pause_s: float, http: HttpSpec) -> float | None:
        """Note a refusal that asks for `pause_s`; return the seconds of the hold that begins, if any."""
        self._refusals += 1
        if self.is_held or self._refusals < REFUSALS_TO_HOLD:
            return None
        self._holds += 1
        if pause_s > http.max_backoff_s or self._holds > HOLDS_TO_CLOSE:
            self.is_closed = True
            return None
        self.is_held = True
        return max(pause_s, backoff_ceiling_s(self._holds, http))
