"""The clock of one request: a total and a stall limit, from which waiting of our own making is excluded."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Literal, Self

Limit = Literal["total", "stall"]


class DeadlineExpired(Exception):
    """A limit was reached; `limit` says which."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(limit)
        self.limit = limit


class Deadline:
    """A context manager that ends its body by cancellation and then raises DeadlineExpired.

    Like :func:`asyncio.timeout`, but with two limits on a single timer, which is moved only when it fires: a
    chunk costs no timer. The stall limit runs from the first `progress` on.
    """

    __slots__ = (
        "_cancelling",
        "_ends_s",
        "_expired",
        "_loop",
        "_moved_s",
        "_paused_s",
        "_stall_s",
        "_task",
        "_timer",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, total_s: float, stall_s: float) -> None:
        self._loop = loop
        self._ends_s = self._loop.time() + total_s
        self._stall_s = stall_s
        self._moved_s: float | None = None
        self._paused_s: float | None = None
        self._expired: Limit | None = None

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        # No stall can end earlier than this, so that a request that is quick needs no other timer.
        self._timer = self._loop.call_at(min(self._ends_s, self._loop.time() + self._stall_s), self._check)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._expired is not None and self._task.uncancel() <= self._cancelling and kind is not None:
            raise DeadlineExpired(self._expired) from error

    @property
    def left_s(self) -> float:
        """What is left of the total."""
        return self._ends_s - self._loop.time()

    def progress(self) -> None:
        """Note that bytes have arrived."""
        self._moved_s = self._loop.time()

    def pause(self) -> None:
        """Stop the clock."""
        self._paused_s = self._loop.time()

    def resume(self) -> None:
        """Let the clock run on; a stall is measured anew."""
        assert self._paused_s is not None
        now_s = self._loop.time()
        self._ends_s += now_s - self._paused_s
        self._paused_s = None
        if self._moved_s is not None:
            self._moved_s = now_s
        self._timer.cancel()
        self._timer = self._loop.call_at(self._due_s(), self._check)

    def _due_s(self) -> float:
        return self._ends_s if self._moved_s is None else min(self._ends_s, self._moved_s + self._stall_s)

    def _check(self) -> None:
        if self._paused_s is not None:
            return
        due_s = self._due_s()
        if self._loop.time() < due_s:
            self._timer = self._loop.call_at(due_s, self._check)
            return
        self._expired = "total" if due_s == self._ends_s else "stall"
        self._task.cancel()
