"""Who works on which shard: the bookkeeping of every runner, apart from how it reaches its workers.

A worker is a number. A runner passes on what workers say, and sends them what there is to say; it says when a worker
has ended and is told whether to start another. A worker's shards outlive it: they are handed out again first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from signal import Signals
from time import monotonic
from typing import Final, Protocol

from turbo_fetch import errors
from turbo_fetch.fetch.allocations import Demand
from turbo_fetch.fetch.documents import DocumentNews
from turbo_fetch.progress.tally import Tally
from turbo_fetch.runners.assigned import Assigned, hungry, moves
from turbo_fetch.runners.document_cache import DocumentCache
from turbo_fetch.runners.host_documents import HostDocuments
from turbo_fetch.runners.messages import (
    ALIVE_EVERY_S,
    CUT_OFF_S,
    Alive,
    Bandwidth,
    GiveBack,
    GivenBack,
    JobError,
    Kept,
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

ANSWERED: Final = 4
"""Hosts that answered lately and are remembered."""

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


class Supervisor:
    """Hands out `tasks`, which are read as workers want them, and hands them out again when a worker ends, or gives
    one back that others have time for. It owns what workers share as well: the limits of domains, and the documents of
    hosts, which it keeps at `documents`.
    """

    def __init__(
        self, tasks: Iterator[ShardTask], listener: Listener, http: HttpSpec, documents: Path
    ) -> None:
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
        self._cache = DocumentCache(documents)
        self._documents = HostDocuments(self._cache, CUT_OFF_S + http.timeout_s)
        self._answered = self._cache.answered()
        """Hosts that answered lately, by domain."""
        self._max_bytes_per_s = http.max_bytes_per_s
        self._enough_rows = 2 * http.concurrency
        """So many rows a worker may have more than another, and yet gets its next shard at once."""
        self._told: dict[int, float] = {}
        """Shares of the bandwidth, as workers were told last, in bytes per second."""
        self._ticked_s = 0.0
        self._greeted_s = -math.inf
        self._kept_s = -math.inf
        self._workers: dict[int, Assigned] = {}
        self._orphaned: deque[ShardTask] = deque()
        """Shards of workers that ended, and those that were given back."""
        self._is_feeding_due = False
        self._fruitless_deaths = 0
        self._list_ended = False

    @property
    def has_work(self) -> bool:
        """Whether a further worker would be of use."""
        if self.stopping or self.failure is not None:
            return False
        if self._orphaned or not self._list_ended:
            return True
        return any(assigned.spare is not None for assigned in self._workers.values())

    def started(self, worker: int) -> None:
        """Take note of a new worker."""
        self._workers[worker] = Assigned()
        self._greeted_s = -math.inf
        self._told.pop(worker, None)

    def retire(self, worker: int) -> None:
        """Give a worker no further shard, so that it ends when those that it has are done."""
        self._workers[worker].is_retired = self._is_feeding_due = True

    def pending_messages(self) -> Iterable[tuple[int, ToWorker]]:
        """Return what is to be sent, and to whom; to be called often, and after everything else."""
        now_s = monotonic()
        is_tick = now_s - self._ticked_s >= TICK_S
        if is_tick:
            self._ticked_s = now_s
            self._limiter.tick(now_s)
            self._documents.tick(now_s)
            self._is_feeding_due = True
        messages: list[tuple[int, ToWorker]] = list(self._limiter.grants().items())
        messages += self._documents.answers()
        messages += self._shares()
        if self._is_feeding_due:
            self._is_feeding_due = False
            messages += self._feed(now_s, is_tick)
        if now_s - self._greeted_s >= ALIVE_EVERY_S:
            self._greeted_s = now_s
            messages += [(worker, Alive(self._answered)) for worker in self._workers]
        return messages

    def _shares(self) -> Iterator[tuple[int, Bandwidth]]:
        """Yield what each worker may download now, if that has changed."""
        if self._max_bytes_per_s is None or not self._workers:
            return
        share = self._max_bytes_per_s / len(self._workers)
        for worker in self._workers:
            if self._told.get(worker) != share:
                self._told[worker] = share
                yield worker, Bandwidth(share)

    def take(self, worker: int, message: ToParent) -> None:
        """Take what a worker says."""
        assigned = self._workers[worker]
        match message:
            case WantShard():
                assigned.is_hungry = self._is_feeding_due = True
            case GivenBack():
                assigned.asked_s = None
                if (task := assigned.remove(message.shard)) is not None:
                    self._orphaned.append(task)
                self._is_feeding_due = True
            case Kept():
                assigned.asked_s = None
                assigned.begun.add(message.shard)
                self._is_feeding_due = True
            case Demand():
                self._limiter.take(worker, message, monotonic())
            case DocumentNews():
                self._documents.take(worker, message, monotonic())
            case Tally():
                assigned.heard(message.rows, message.open_shards)
                self.rows_done += message.rows
                self._fruitless_deaths = 0 if message.rows else self._fruitless_deaths
                self._note_answered(message.answered)
                self._listener.tally(worker, message)
            case ShardDone():
                if assigned.remove(message.shard) is not None:
                    self._listener.done(message)
                self._is_feeding_due = True
            case JobError():
                self.failure = errors.named(message.kind, message.message)

    def ended(
        self, worker: int, why: str | None, is_its_fault: bool = True, by: Signals | None = None
    ) -> bool:
        """Take note that a worker is gone, by itself if `why` is None, or by a signal; return whether to start another.

        `is_its_fault` is false where the worker's machine is gone, which the runner tells, so that its shards are above
        suspicion, and its requests may go on unseen until it finds itself cut off.
        """
        assigned = self._workers.pop(worker)
        lingers_s = LINGER_S if is_its_fault else CUT_OFF_S + self._request_s
        is_through = why is None and not assigned.tasks
        self._limiter.worker_ended(worker, 0.0 if is_through else lingers_s, monotonic())
        self._documents.worker_ended(worker, monotonic())
        left_rows = sum(assigned.open_rows.get(shard, 0) for shard in assigned.tasks)
        self._listener.worker_ended(worker, None if is_through else left_rows)
        if self.stopping or self.failure is not None or is_through:
            return False
        self._orphaned.extend(replace(task, died_by=by) for task in assigned.tasks.values())
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

    def close(self) -> None:
        """Close what is kept."""
        self._documents.close()

    def _note_answered(self, hosts: Mapping[str, str]) -> None:
        """Remember who answered lately, also for a run that resumes this one while there is no network."""
        merged = {
            **{domain: self._answered[domain] for domain in self._answered.keys() - hosts.keys()},
            **hosts,
        }
        latest = dict(list(merged.items())[-ANSWERED:])
        if self._answered.keys() != latest.keys() and monotonic() - self._kept_s >= ALIVE_EVERY_S:
            self._kept_s = monotonic()
            self._cache.store_answered(latest)
        if len(self._answered) < ANSWERED <= len(latest):
            # Those that began at the same time may not have heard anybody yet.
            self._greeted_s = -math.inf
        self._answered = latest

    def _feed(self, now_s: float, is_tick: bool) -> Iterator[tuple[int, ToWorker]]:
        """Give shards to the workers that want some, slowly to those that have more than others and than they can ask
        for at once; when there are none any more, ask those back that others have not begun, and let go whom nobody
        could give any."""
        for number, assigned in self._workers.items():
            if assigned.is_retired and assigned.is_hungry:
                assigned.is_hungry = False
                yield number, NoMoreShards()
        wanting = hungry(self._workers)
        if not wanting:
            return
        least = min(assigned.rows_left for assigned in self._workers.values())
        for number in wanting:
            assigned = self._workers[number]
            if not is_tick and assigned.rows_left > least + self._enough_rows:
                break
            task = self._next_task()
            if task is None:
                break
            assigned.give(task)
            yield number, task
        if self.stopping or self.failure is not None or not self._list_ended or self._orphaned:
            return
        for giver, shard in list(moves(self._workers, now_s)):
            self._workers[giver].asked_s = now_s
            yield giver, GiveBack(shard)
        givers = {number for number, assigned in self._workers.items() if assigned.spare is not None}
        for number in hungry(self._workers):
            if not givers - {number}:
                self._workers[number].is_hungry = False
                yield number, NoMoreShards()

    def _next_task(self) -> ShardTask | None:
        if self.stopping or self.failure is not None:
            return None
        try:
            task = self._orphaned.popleft() if self._orphaned else next(self._tasks, None)
        except errors.TurboFetchError as error:
            self.failure = error
            return None
        self._list_ended |= task is None
        return task
