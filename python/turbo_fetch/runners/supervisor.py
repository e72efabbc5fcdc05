"""Who works on which shard: the bookkeeping of every runner, apart from how it reaches its workers.

A worker is a number. A runner passes on what a worker says and sends it the answer; it says when a worker has
ended and is told whether to start another. A worker's shards outlive it: they are handed out again first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Final, Protocol

from turbo_fetch import errors
from turbo_fetch.fetch.allocations import Demand, Grant
from turbo_fetch.progress.tally import Tally
from turbo_fetch.runners.messages import (
    ALIVE_EVERY_S,
    CUT_OFF_S,
    Alive,
    Bandwidth,
    JobError,
    NoMoreShards,
    ShardDone,
    ToParent,
    ToWorker,
    WantShard,
)
from turbo_fetch.runners.rate_limiter import LINGER_S, RateLimiter
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import HttpSpec

FRUITLESS_DEATHS: Final = 8
"""Deaths in a row without a single row done, after which something other than an image is at fault."""

TICK_S: Final = 0.25
"""How often it is looked for what the time has come for, in the supervisor and by the runners."""


class Listener(Protocol):
    """What the runner tells the job; called in the runner's thread."""

    def tally(self, worker: int, tally: Tally) -> None:
        """Take the progress of a worker."""

    def done(self, message: ShardDone) -> None:
        """Take a shard that is published."""

    def worker_died(self, worker: int, why: str) -> None:
        """Take note that a worker died and is replaced."""

    def worker_ended(self, worker: int, open_rows: int | None) -> None:
        """Take note that a worker ended, and how many rows were counted of shards that it left open; None
        if it left none."""

    def note(self, text: str) -> None:
        """Take a line that a person should see."""

    def tick(self) -> None:
        """Take the chance to refresh, a few times a second."""


@dataclass(slots=True)
class _Assigned:
    tasks: dict[int, ShardTask] = field(default_factory=dict)
    rows_done: int = 0
    open_rows: dict[int, int] = field(default_factory=dict)
    """Rows of open shards that were counted."""


class Supervisor:
    """Hands out `tasks`, which are read as workers want them, and hands them out again when a worker ends.

    It owns the rate limiter as well; what that has to say to any worker is in `pending_messages`.
    """

    def __init__(self, tasks: Iterator[ShardTask], listener: Listener, http: HttpSpec) -> None:
        self.failure: errors.TurboFetchError | None = None
        """Why the job cannot go on; from then on no shard is handed out."""
        self.stopping = False
        """Set by the runner when workers are to end; from then on no shard is handed out."""
        self.rows_done = 0
        """By all workers, as they have told so far."""
        self._tasks = tasks
        self._listener = listener
        self._request_s = http.timeout_s
        self._limiter = RateLimiter(http)
        self._max_bytes_per_s = http.max_bytes_per_s
        self._told: dict[int, float] = {}
        """Shares of the bandwidth, as workers were told last, in bytes per second."""
        self._ticked_s = 0.0
        self._greeted_s = 0.0
        self._workers: dict[int, _Assigned] = {}
        self._orphaned: deque[ShardTask] = deque()
        self._retired: set[int] = set()
        self._fruitless_deaths = 0
        self._list_ended = False

    @property
    def has_work(self) -> bool:
        """Whether a further worker would be of use."""
        if self.stopping or self.failure is not None:
            return False
        return bool(self._orphaned) or not self._list_ended

    def started(self, worker: int) -> None:
        """Take note of a new worker."""
        self._workers[worker] = _Assigned()
        self._told.pop(worker, None)

    def retire(self, worker: int) -> None:
        """Give a worker no further shard, so that it ends when those that it has are done."""
        self._retired.add(worker)

    def pending_messages(self) -> Iterable[tuple[int, Grant | Bandwidth | Alive]]:
        """Return what is to be sent, and to whom; to be called often, and after everything else."""
        now_s = monotonic()
        if now_s - self._ticked_s >= TICK_S:
            self._ticked_s = now_s
            self._limiter.tick(now_s)
        grants: list[tuple[int, Grant | Bandwidth | Alive]] = list(self._limiter.grants().items())
        grants += self._shares()
        if now_s - self._greeted_s >= ALIVE_EVERY_S:
            self._greeted_s = now_s
            grants += [(worker, Alive()) for worker in self._workers]
        return grants

    def _shares(self) -> Iterator[tuple[int, Bandwidth]]:
        """Yield what each worker may download now, if that has changed."""
        if self._max_bytes_per_s is None or not self._workers:
            return
        share = self._max_bytes_per_s / len(self._workers)
        for worker in self._workers:
            if self._told.get(worker) != share:
                self._told[worker] = share
                yield worker, Bandwidth(share)

    def answer(self, worker: int, message: ToParent) -> ToWorker | None:
        """Take what a worker says; return what to send it, if anything."""
        assigned = self._workers[worker]
        match message:
            case WantShard():
                return NoMoreShards() if worker in self._retired else self._next_task(assigned)
            case Demand():
                self._limiter.take(worker, message, monotonic())
            case Tally():
                assigned.rows_done += message.rows
                self.rows_done += message.rows
                assigned.open_rows = message.open_shards
                self._fruitless_deaths = 0 if message.rows else self._fruitless_deaths
                self._listener.tally(worker, message)
            case ShardDone():
                if assigned.tasks.pop(message.shard, None) is not None:
                    self._listener.done(message)
            case JobError():
                self.failure = getattr(errors, message.kind)(message.message)
        return None

    def ended(self, worker: int, why: str | None, is_its_fault: bool = True) -> bool:
        """Take note that a worker is gone, by itself if `why` is None; return whether to start another.

        `is_its_fault` is false where the worker's machine is gone, which the runner tells, so that its shards are above
        suspicion, and its requests may go on unseen until it finds itself cut off.
        """
        assigned = self._workers.pop(worker)
        self._retired.discard(worker)
        lingers_s = LINGER_S if is_its_fault else CUT_OFF_S + self._request_s
        is_through = why is None and not assigned.tasks
        self._limiter.worker_ended(worker, 0.0 if is_through else lingers_s, monotonic())
        left_rows = sum(assigned.open_rows.get(shard, 0) for shard in assigned.tasks)
        self._listener.worker_ended(worker, None if is_through else left_rows)
        if self.stopping or self.failure is not None or is_through:
            return False
        self._orphaned.extend(replace(task, died_by=why) for task in assigned.tasks.values())
        if assigned.rows_done:
            self._fruitless_deaths = 0
        elif is_its_fault:
            self._fruitless_deaths += 1
        why = why or "ended before its shards did"
        if self._fruitless_deaths >= FRUITLESS_DEATHS:
            names = ", ".join(str(shard) for shard in sorted(assigned.tasks)) or "none"
            self.failure = errors.ShardFailed(
                f"worker {worker} {why}, the {FRUITLESS_DEATHS}th time in a row that one got nowhere "
                f"(open shards: {names}); what arrived is saved"
            )
            return False
        if is_its_fault:
            self._listener.worker_died(worker, why)
        return True

    def _next_task(self, assigned: _Assigned) -> ToWorker | None:
        if self.stopping or self.failure is not None:
            return None
        try:
            task = self._orphaned.popleft() if self._orphaned else next(self._tasks, None)
        except errors.TurboFetchError as error:
            self.failure = error
            return None
        if task is None:
            self._list_ended = True
            return NoMoreShards()
        assigned.tasks[task.shard.id] = task
        return task
