"""What the rows of one domain share: places, a pace, and the patience of a server that refuses requests.

How many requests are in flight follows the server, by additive increase and multiplicative decrease (Chiu and
Jain, 1989, https://doi.org/10.1016/0169-7552(89)90019-6), as TCP does: a refusal (429, 503, or a 5xx with
Retry-After) or a latency far above the best one seen halves the window, at most once per window of answers;
every good answer widens it again, up to what the spec allows.

One refusal concerns its row alone otherwise. Several in a row, with no other answer between them, mean that the
server wants rest: the domain is held, for longer each time. A server that asks for more rest than the spec allows,
or refuses after every hold, is closed: its rows end unasked. When the rest that it asked for is over, and not before
CLOSED_S, it is asked again, one row at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from turbo_fetch.fetch.leases import Rest
from turbo_fetch.fetch.policy import backoff_ceiling_s
from turbo_fetch.fetch.tenant import Lease
from turbo_fetch.spec import DomainSpec, HttpSpec

REFUSALS_TO_HOLD: Final = 3
HOLDS_TO_CLOSE: Final = 8
CLOSED_S: Final = 600.0
SLOW_TIMES: Final = 4.0
SLOW_MS: Final = 250.0
"""A latency is rising when it is above SLOW_TIMES the best one and SLOW_MS more: far above what noise does."""

SMOOTHING: Final = 0.125
"""Weight of a new latency in the mean, as in RFC 6298."""

RowT = TypeVar("RowT")


@dataclass(slots=True)
class Domain(Generic[RowT]):
    """State of one domain in a pool. `parked` is a heap of rows that wait for a place."""

    preset: DomainSpec = field(default_factory=DomainSpec)
    spacing_s: float = 0.0
    """Seconds from one start to the next; 0 for none."""
    active: int = 0
    parked: list[RowT] = field(default_factory=list)
    is_held: bool = False
    is_spaced: bool = False
    """Whether the next start has to wait for its time."""
    is_closed: bool = False
    lease: Lease | None = None
    """The part of the limit that is ours; None if we need not share it."""
    _refusals: int = 0
    _holds: int = 0
    _window: float | None = None
    """Requests that may be in flight; None while the limit of the spec does."""
    _answers_until_cut: float = 0.0
    _best_ms: float | None = None
    _mean_ms: float = 0.0

    def limit(self, http: HttpSpec) -> int:
        """Return the most requests that the spec allows."""
        return http.limit_of(self.preset) or http.concurrency

    def places(self, http: HttpSpec) -> int:
        """Return how many more requests may start now."""
        if self.is_held or self.is_spaced:
            return 0
        limit = self.limit(http)
        free = (limit if self._window is None else int(self._window)) - self.active
        if self.lease is not None and not self.lease.is_free:
            free = min(free, self.lease.free)
        return min(free, 1) if self.spacing_s else free

    @property
    def window(self) -> float:
        """Requests that the server is trusted to bear."""
        return math.inf if self._window is None else self._window

    @property
    def is_idle(self) -> bool:
        """Whether nothing is worth remembering."""
        busy = self.active or self.parked or self.is_held or self.is_spaced or self.is_closed
        return not (busy or self._refusals or self._window is not None)

    def answered(self, http: HttpSpec, latency_ms: float | None = None) -> None:
        """Note an answer that was not a refusal, and how long it took to begin."""
        self._refusals = self._holds = 0
        self._answers_until_cut -= 1
        if latency_ms is not None and http.per_domain and self._is_slowing(latency_ms):
            self._cut(http)
        elif self._window is not None:
            self._window += 1 / self._window
            if self._window >= self.limit(http):
                self._window = None

    def overloaded(self, http: HttpSpec) -> None:
        """Note an answer that says the server has too much to do, but does not ask for rest."""
        self._answers_until_cut -= 1
        self._cut(http)

    def refused(self, pause_s: float, http: HttpSpec) -> float | None:
        """Note a refusal that asks for `pause_s`; return the seconds of the hold that begins, if any."""
        self._refusals += 1
        self.overloaded(http)
        if self.is_held or self.is_closed or self._refusals < REFUSALS_TO_HOLD:
            return None
        self._holds += 1
        if pause_s > http.max_backoff_s or self._holds > HOLDS_TO_CLOSE:
            self.is_closed = True
            return None
        self.is_held = True
        return max(pause_s, backoff_ceiling_s(self._holds, http))

    @property
    def holds(self) -> int:
        """How many rests in a row the server wanted."""
        return self._holds

    def rest(self, rest: Rest) -> bool:
        """Take over a rest that another worker was asked for; return whether it is news."""
        if self.is_held or self.is_closed:
            return False
        self._refusals, self._holds = REFUSALS_TO_HOLD, rest.holds
        self.is_closed = rest.is_closed
        self.is_held = not rest.is_closed
        return True

    def reopen(self) -> None:
        """Let one request at a time through a closed domain; the next refusal closes it again."""
        self.is_closed = False
        self._window = 1.0
        self._refusals, self._holds = REFUSALS_TO_HOLD - 1, HOLDS_TO_CLOSE

    def _cut(self, http: HttpSpec) -> None:
        # The requests that were under way at the last cut say nothing about what it did.
        if self._answers_until_cut > 0:
            return
        window = self._window or float(self.limit(http))
        self._answers_until_cut = window
        self._window = max(1.0, window / 2)

    def _is_slowing(self, latency_ms: float) -> bool:
        if self._best_ms is None:
            self._best_ms = self._mean_ms = latency_ms
            return False
        self._best_ms = min(self._best_ms, latency_ms)
        self._mean_ms += SMOOTHING * (latency_ms - self._mean_ms)
        return self._mean_ms > SLOW_TIMES * self._best_ms + SLOW_MS
