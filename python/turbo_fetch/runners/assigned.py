"""What each worker has to do, and what another one should have of it: pure bookkeeping.

A worker takes shards on until it has rows that could start, and rows of a busy domain cannot, so the first one to come
may take all. When the list is through, those who want more get shards that are not begun from those who have most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from turbo_fetch.shard.task import ShardTask

ANSWER_S: Final = 5.0
"""How long an answer is waited for before another worker is asked."""


@dataclass(slots=True)
class Assigned:
    """The shards of one worker."""

    tasks: dict[int, ShardTask] = field(default_factory=dict)
    """By shard, in the order in which they were handed out."""
    rows_done: int = 0
    rows_left: int = 0
    """Rows of its shards that have not ended, as far as is known."""
    open_rows: dict[int, int] = field(default_factory=dict)
    """Rows of open shards that were counted."""
    is_hungry: bool = False
    """Whether it wants a shard and has no answer yet."""
    is_retired: bool = False
    """Whether it is to end when its shards are done."""
    begun: set[int] = field(default_factory=set)
    """Shards that it would not give back."""
    asked_s: float | None = None
    """When it was asked to give one back, if it has not answered."""

    @property
    def spare(self) -> ShardTask | None:
        """The shard that it could do without: the last one of several of which nothing may be begun."""
        if len(self.tasks) < 2:
            return None
        return next((task for shard, task in reversed(self.tasks.items()) if shard not in self.begun), None)

    def give(self, task: ShardTask) -> None:
        """Add the shard that it wants."""
        self.tasks[task.shard.id] = task
        self.is_hungry = False
        self._count()

    def remove(self, shard: int) -> ShardTask | None:
        """Take a shard away; return its task if the worker had it."""
        self.begun.discard(shard)
        task = self.tasks.pop(shard, None)
        self._count()
        return task

    def heard(self, rows: int, open_rows: dict[int, int]) -> None:
        """Take note of rows that ended, and how many of each open shard have."""
        self.rows_done += rows
        self.open_rows = open_rows
        self._count()

    def _count(self) -> None:
        self.rows_left = sum(
            task.shard.count - self.open_rows.get(shard, 0) for shard, task in self.tasks.items()
        )


def hungry(workers: Mapping[int, Assigned]) -> list[int]:
    """Return the workers that want a shard, first the one with least to do."""
    found = [number for number, assigned in workers.items() if assigned.is_hungry]
    return sorted(found, key=lambda number: workers[number].rows_left)


def moves(workers: Mapping[int, Assigned], now_s: float) -> Iterator[tuple[int, int]]:
    """Yield who should give back which shard: one for each worker that wants some, as far as none is under way.

    A shard is worth it if who gets it has less to do then than who gives it has now.
    """
    asked_s = [assigned.asked_s for assigned in workers.values() if assigned.asked_s is not None]
    under_way = sum(1 for each in asked_s if now_s - each < ANSWER_S)
    spares = {
        number: spare
        for number, assigned in workers.items()
        if assigned.asked_s is None and (spare := assigned.spare) is not None
    }
    givers = sorted(spares, key=lambda number: -workers[number].rows_left)
    for taker, giver in zip(hungry(workers)[under_way:], givers, strict=False):
        shard = spares[giver].shard
        if workers[taker].rows_left + shard.count < workers[giver].rows_left:
            yield giver, shard.id
