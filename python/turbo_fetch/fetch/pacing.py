"""The bound on bytes per second: a budget that is in debt while more has come than the rate allows.

Bytes are paid for when they are charged, and paid back as time goes by; while there is debt, no request starts and no
reader goes on. So any span of time brings at most its share, and `BURST_S` more, and what the requests in flight had
been promised, of which there are few where the rate is low (`requests_at_once`).
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final

from turbo_fetch.fetch.budget import BodyReader, ByteBudget
from turbo_fetch.spec import HttpSpec

BURST_S: Final = 0.25
"""How much time may be saved up while less comes than could."""
AHEAD_S: Final = 2.0
"""Requests in flight are as many as bring what the rate allows in so long a time, of bodies of `TYPICAL_BYTES`."""
TYPICAL_BYTES: Final = 100_000
FEWEST: Final = 2


class PacedBudget(ByteBudget):
    """A byte budget with a rate, which is 0 until `set_rate` is called."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self._rate = 0.0
        self._saved_bytes = 0.0
        """What may be spent now; debt, if it is negative."""
        self._was_in_debt = False
        self._at_s = monotonic()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_room(self) -> bool:
        """See ByteBudget."""
        return not self._is_in_debt() and super().has_room

    def reader(self, domain: str = "") -> BodyReader:
        """See ByteBudget."""
        return self._registered(_PacedReader(self, domain))

    def set_rate(self, bytes_per_s: float) -> None:
        """Allow so many bytes per second from now on; to be called in the loop."""
        self._settle()
        self._rate = bytes_per_s
        self._wake()

    def spend(self, count: int) -> None:
        """Take bytes on account."""
        self._settle()
        self._saved_bytes -= count

    def _may_read(self, reader: BodyReader) -> bool:
        return not self._is_in_debt() and super()._may_read(reader)

    async def _change(self) -> None:
        # By what was seen, for the debt may just have been paid.
        if self._timer is None and self._rate and self._was_in_debt:
            self._settle()
            wait_s = max(0.0, -self._saved_bytes / self._rate)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._paid)
        await super()._change()

    def _paid(self) -> None:
        self._timer = None
        self._wake()

    def _is_in_debt(self) -> bool:
        if self._rate == 0.0:
            return True
        self._settle()
        self._was_in_debt = self._saved_bytes < 0
        return self._was_in_debt

    def _settle(self) -> None:
        now_s = monotonic()
        paid = self._saved_bytes + (now_s - self._at_s) * self._rate
        self._saved_bytes = min(paid, BURST_S * self._rate)
        self._at_s = now_s


class _PacedReader(BodyReader):
    """The reader of a body that comes over the network."""

    __slots__ = ()

    def charge_up_to(self, size: int) -> None:
        """See BodyReader."""
        before = self.charged_bytes
        super().charge_up_to(size)
        budget = self._budget
        assert isinstance(budget, PacedBudget)
        budget.spend(self.charged_bytes - before)


def budget_of(http: HttpSpec) -> ByteBudget:
    """Return the budget of a worker, with a rate if there is a limit on that of all."""
    limit_bytes = http.memory_mb * 1_000_000
    return ByteBudget(limit_bytes) if http.max_mbps is None else PacedBudget(limit_bytes)


def requests_at_once(http: HttpSpec) -> int:
    """Return how many requests may be in flight: what arrives of them has left its server, and is not held back."""
    if http.max_bytes_per_s is None:
        return http.concurrency
    ahead = http.max_bytes_per_s * AHEAD_S / TYPICAL_BYTES
    return max(1, min(http.concurrency, max(FEWEST, round(ahead))))


def set_rate(budget: ByteBudget, bytes_per_s: float) -> None:
    """Let a budget that has a rate spend so many bytes per second."""
    if isinstance(budget, PacedBudget):
        budget.set_rate(bytes_per_s)
