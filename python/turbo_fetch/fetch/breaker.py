"""The circuit breaker of one host: a dead host is not asked by every row of it.

After several failures to reach it in a row, with no answer between them, it cools down, and then a single row tries it
(half-open). Its other rows wait for the first two trials; from then on they end unasked, with the failure that
was seen last, and a row tries the host again from time to time.
https://martinfowler.com/bliki/CircuitBreaker.html
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from turbo_fetch.causes import local_cause
from turbo_fetch.fetch.failures import Failure
from turbo_fetch.fetch.request import Fetched
from turbo_fetch.outcomes import Outcome

FAILURES_TO_OPEN: Final = 5
TRIALS_TO_WAIT_FOR: Final = 2
FIRST_COOLDOWN_S: Final = 2.0
LONGEST_COOLDOWN_S: Final = 300.0
REMEMBERED: Final = 1 << 15
"""Hosts, of some 330 bytes each."""

_UNREACHABLE: Final = frozenset({Outcome.CONNECT, Outcome.TIMEOUT})


def is_unreachable(fetched: Fetched) -> bool:
    """Return whether an attempt ended without a sign of life of its host, and not by the proxy's fault."""
    if fetched.http_status is not None or fetched.outcome not in _UNREACHABLE:
        return False
    return local_cause(fetched.outcome, fetched.detail) != "proxy"


@dataclass(slots=True)
class Breaker:
    """State of one host from its first failure to its next answer; times are in seconds of one clock."""

    last: Failure
    """The failure that was seen last."""
    failures: int = 0
    cooldown_ends_s: float = 0.0
    _cooldowns: int = 0

    def failed(self, failure: Failure, now_s: float) -> None:
        """Note that the host could not be reached."""
        self.last = failure
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN and now_s >= self.cooldown_ends_s:
            self._cool_down(now_s)

    def heard(self, now_s: float) -> None:
        """Take over from another worker that the host could not be reached."""
        if self.failures < FAILURES_TO_OPEN:
            self.failures = FAILURES_TO_OPEN
            self._cool_down(now_s)

    def admits(self, now_s: float) -> bool:
        """Whether a row may ask now; while the host cools down, one may when each cooldown is over."""
        if self.failures < FAILURES_TO_OPEN:
            return True
        if now_s < self.cooldown_ends_s:
            return False
        self._cool_down(now_s)
        return True

    @property
    def is_waited_for(self) -> bool:
        """Whether rows that are not admitted wait, rather than end."""
        return self._cooldowns <= TRIALS_TO_WAIT_FOR

    def _cool_down(self, now_s: float) -> None:
        self.cooldown_ends_s = now_s + min(LONGEST_COOLDOWN_S, FIRST_COOLDOWN_S * 2.0**self._cooldowns)
        self._cooldowns += 1


class Breakers:
    """The breakers of those hosts that could not be reached last, or that rows wanted to ask last.

    One that is forgotten is asked as any other by its next rows: FAILURES_TO_OPEN times before it rests again.
    """

    def __init__(self) -> None:
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()

    def __len__(self) -> int:
        return len(self._breakers)

    def get(self, origin: str) -> Breaker | None:
        """Return the breaker of a host that a row wants to ask, None if it has none."""
        breaker = self._breakers.get(origin)
        if breaker is not None:
            self._breakers.move_to_end(origin)
        return breaker

    def of(self, origin: str, failure: Failure) -> Breaker:
        """Return the breaker of a host that could not be reached, a new one if it has none."""
        breaker = self.get(origin)
        if breaker is None:
            breaker = self._breakers[origin] = Breaker(failure)
            if len(self._breakers) > REMEMBERED:
                self._breakers.popitem(last=False)
        return breaker

    def answered(self, origin: str) -> None:
        """Take note that a host can be reached."""
        self._breakers.pop(origin, None)

    def clear(self) -> None:
        """Forget all hosts."""
        self._breakers.clear()
