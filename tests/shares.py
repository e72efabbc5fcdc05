"""Who did how much of a run: a listener of a runner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from turbo_fetch.progress.tally import Tally
from turbo_fetch.runners.messages import ShardDone


class Shares:
    """Counts the rows of each worker; `heard` is called after each tally."""

    def __init__(self, heard: Callable[[Shares], object] = lambda _: None) -> None:
        self.rows: Counter[int] = Counter()
        """Rows that were requested, by worker."""
        self.at_start: dict[int, Counter[int]] = {}
        """What all had done when a worker was first heard of."""
        self.shards: Counter[int] = Counter()
        self.counted = 0
        """Rows as the display counts them."""
        self._heard = heard

    def tally(self, worker: int, tally: Tally) -> None:
        """See Listener."""
        self.at_start.setdefault(worker, Counter(self.rows))
        self.rows[worker] += tally.outcomes["success"]
        self.counted += tally.rows + tally.recovered
        self._heard(self)

    def done(self, message: ShardDone) -> None:
        """See Listener."""
        self.shards[message.shard] += 1

    def since(self, start: int) -> list[int]:
        """Return what each worker has done since the worker `start` came."""
        return [rows - self.at_start[start][worker] for worker, rows in sorted(self.rows.items())]

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None


def are_even(rows: list[int], tolerance: float = 0.2) -> bool:
    """Return whether all are within a part of their mean."""
    mean = sum(rows) / len(rows)
    return all(abs(each - mean) <= tolerance * mean for each in rows)
