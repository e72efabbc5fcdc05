"""How far a run is: pure bookkeeping over the tallies of its workers, with the clock passed in."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from turbo_fetch.causes import Cause
from turbo_fetch.progress.tally import Histogram, Tally, body_sizes, request_seconds

RATE_WINDOW_S: Final = 10.0


@dataclass(slots=True)
class WorkerProgress:
    """What one worker did in this run, and its last tally."""

    tally: Tally
    rows: int = 0
    body_bytes: int = 0
    is_gone: bool = False

    def add(self, tally: Tally) -> None:
        """Count a tally."""
        self.tally = tally
        self.rows += tally.rows
        self.body_bytes += tally.body_bytes


@dataclass(slots=True)
class Progress:
    """How far a run is."""

    total_rows: int | None = None
    """Rows of the list; None while the list is of unknown length."""
    total_is_estimate: bool = False
    done_rows: int = 0
    """Rows ended, those of earlier runs included."""
    run_rows: int = 0
    """Rows that this run ended."""
    body_bytes: int = 0
    """Bytes of bodies that this run received."""
    retries: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: Histogram = field(default_factory=request_seconds)
    sizes: Histogram = field(default_factory=body_sizes)
    workers: dict[int, WorkerProgress] = field(default_factory=dict)
    shards_done: int = 0
    """Shards committed, those of earlier runs included."""
    _recent: deque[tuple[float, int, int]] = field(default_factory=deque)

    def add(self, worker: int, tally: Tally, now_s: float) -> None:
        """Count a worker's tally that came at `now_s`."""
        self.workers.setdefault(worker, WorkerProgress(tally)).add(tally)
        self.done_rows += tally.rows + tally.recovered
        self.run_rows += tally.rows
        self.body_bytes += tally.body_bytes
        self.retries += tally.retries
        self.outcomes.update(tally.outcomes)
        self.seconds.merge(tally.seconds)
        self.sizes.merge(tally.sizes)
        self._recent.append((now_s, self.run_rows, self.body_bytes))
        while self._recent[0][0] < now_s - RATE_WINDOW_S and len(self._recent) > 2:
            self._recent.popleft()

    def shard_done(self, rows: int, resumed: bool) -> None:
        """Count a committed shard; the rows of one of this run were counted as they ended."""
        self.shards_done += 1
        if resumed:
            self.done_rows += rows

    def rates(self) -> tuple[float, float]:
        """Return rows and bytes per second over the last ten seconds."""
        if len(self._recent) < 2:
            return 0.0, 0.0
        (start, rows, size), (end, rows_now, size_now) = self._recent[0], self._recent[-1]
        elapsed = max(end - start, 1e-9)
        return (rows_now - rows) / elapsed, (size_now - size) / elapsed

    def eta_s(self) -> float | None:
        """Return the seconds left at the present rate, if they can be known."""
        rate, _ = self.rates()
        if self.total_rows is None or rate <= 0:
            return None
        return max(0, self.total_rows - self.done_rows) / rate

    @property
    def success_share(self) -> float:
        """Share of this run's rows that became samples, 0 to 1."""
        return self.outcomes["success"] / max(self.run_rows, 1)

    def sum(self, name: str) -> int:
        """Return the sum over the workers of a present figure of their tallies."""
        return sum(int(getattr(worker.tally, name)) for worker in self.workers.values() if not worker.is_gone)

    def worker_gone(self, worker: int, open_rows: int) -> None:
        """Take note that a worker ended: how it stood is past, and so many rows will be counted again."""
        self.done_rows -= open_rows
        if worker in self.workers:
            self.workers[worker].is_gone = True

    @property
    def open_shards(self) -> int:
        """Shards begun and not committed."""
        return sum(len(worker.tally.open_shards) for worker in self.workers.values() if not worker.is_gone)

    @property
    def present_workers(self) -> int:
        """Workers that work now."""
        return sum(1 for worker in self.workers.values() if not worker.is_gone)

    def outages(self) -> list[tuple[Cause, float]]:
        """Return what is out of order for workers that have an outage now, and for how many seconds, longest first."""
        down = [worker.tally.outage for worker in self.workers.values() if not worker.is_gone]
        return sorted((each for each in down if each is not None), key=lambda each: -each[1])


def figures(progress: Progress, before: Mapping[str, Any] | None, now_s: float) -> dict[str, Any]:
    """Return how things stand at `now_s` of the run, as a line of the metrics has it.

    `before` is the line before, over which the rates are. Counts are of this run, except `rows_done` and
    `shards`; histograms have one count per class, with the edges of :mod:`turbo_fetch.progress.tally`.
    """
    elapsed = max(now_s - (before["elapsed_s"] if before else 0.0), 1e-9)
    workers = [
        _worker_figures(number, worker)
        for number, worker in sorted(progress.workers.items())
        if not worker.is_gone
    ]
    return {
        "elapsed_s": round(now_s, 3),
        "rows_total": progress.total_rows,
        "rows_done": progress.done_rows,
        "rows": progress.run_rows,
        "bytes": progress.body_bytes,
        "rows_per_s": round((progress.run_rows - (before["rows"] if before else 0)) / elapsed, 2),
        "bytes_per_s": round((progress.body_bytes - (before["bytes"] if before else 0)) / elapsed),
        "retries": progress.retries,
        "outcomes": dict(progress.outcomes.most_common()),
        "seconds": progress.seconds.as_list(),
        "seconds_sum": round(progress.seconds.total, 3),
        "sizes": progress.sizes.as_list(),
        "in_flight": progress.sum("in_flight"),
        "waiting": progress.sum("waiting"),
        "held": progress.sum("held"),
        "to_score": progress.sum("to_score"),
        "outages": len(progress.outages()),
        "open_shards": progress.open_shards,
        "shards": progress.shards_done,
        "workers": workers,
    }


def _worker_figures(number: int, worker: WorkerProgress) -> dict[str, Any]:
    tally = worker.tally
    return {
        "worker": number,
        "pid": tally.pid,
        "rows": worker.rows,
        "bytes": worker.body_bytes,
        "cpu_s": round(tally.cpu_s, 2),
        "memory_bytes": tally.memory_bytes,
        "open_files": tally.open_files,
        "in_flight": tally.in_flight,
    }
