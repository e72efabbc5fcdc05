"""One shard, from its rows to its commit record: fetch → transform → spool → writer."""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from signal import Signals
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from turbo_fetch.dataset.attempts import Replaced, note_replaced
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.pool import FetchPool
from turbo_fetch.fetch.request import Done, Fetched
from turbo_fetch.outcomes import BY_NUMBER, Outcome
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.progress.tally import Tally
from turbo_fetch.score.messages import SCORED_BY, Suspended
from turbo_fetch.shard import results
from turbo_fetch.shard.captions import with_captions
from turbo_fetch.shard.complete_shard import LIST_NOTES, CompleteShard
from turbo_fetch.shard.deny_lists import DenyList
from turbo_fetch.shard.prefilter import prefilter
from turbo_fetch.shard.routes import Router
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.shard.transform import Transform
from turbo_fetch.sources.archive_records import ArchiveRecords
from turbo_fetch.sources.pools import SourcePools
from turbo_fetch.spec import FetchSpec
from turbo_fetch.spool.spool import Spool
from turbo_fetch.storage import Storage

if TYPE_CHECKING:
    from turbo_fetch.score.scorer import Scorer

ROWS_AT_ONCE: Final = 1_000
"""Rows that are handed to the pool together: the first requests start while the others are looked at."""
BATCH_IMAGES: Final = 64
FIRST_IMAGES: Final = 16
"""Images of a batch to be decoded while no other one is in the works: the cores are idle until it comes."""
BATCH_BYTES: Final = 16_000_000
BATCH_WAIT_S: Final = 0.05
DEATHS_TO_BLAME: Final = 3
"""Times that an image must have been alone in the transform when the process died to be blamed for it."""
_CRASHES: Final = frozenset(
    {Signals.SIGSEGV, Signals.SIGBUS, Signals.SIGILL, Signals.SIGFPE, Signals.SIGTRAP, Signals.SIGABRT}
)
"""Signals by which a process ends for what it did itself."""


@dataclass(slots=True)
class Tools:
    """What the shards of one worker share."""

    fetch: FetchSpec
    storage: Storage
    pool: FetchPool
    sources: SourcePools
    """Reads the rows that the pool does not request."""
    router: Router
    budget: ByteBudget
    transform: Transform
    transforms: Executor
    """Threads for native batches and the spool."""
    files: Executor
    """Threads for loading rows and writing finished shards."""
    deny: DenyList | None = None
    records: ArchiveRecords | None = None
    """Takes bodies out of the records that were fetched, where rows are records of archives."""
    scorer: Scorer | None = None
    """The function of the user's, where the spec has one."""
    scoring: Executor | None = None
    """Threads that wait for it."""
    tally: Tally = field(default_factory=Tally)
    is_aside: bool = False
    """Whether shards are published into an attempt, from where the parent moves them."""
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a suspect is in the transform, so that no two suspects share the blame."""


@dataclass(slots=True)
class Journal:
    """A spool with the lock that its threads take, and the rows that it belongs to, with what a record says of them."""

    spool: Spool
    facts: dict[str, Any]
    source: pa.RecordBatch
    """All rows of the shard."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add_scores(self, scores: pa.RecordBatch) -> None:
        """Append scores to the spool. Raises OutputError."""
        with self.lock:
            self.spool.append_scores(scores)


class OpenShard:
    """A shard while it is open. `run` is called once; `suspend` makes it end early with all bodies saved, `give_back`
    as if it had never been opened."""

    def __init__(self, tools: Tools, task: ShardTask) -> None:
        self.shard = task.shard
        self.submitted = asyncio.Event()
        """Set when the pool knows the rows, or the shard ended."""
        self._work = task.work
        self._died_by = task.died_by
        self._tools = tools
        self._started_s = time.time()
        self._ended = asyncio.Event()
        self._suspended = False
        self.is_given_back = False
        self._is_begun = False
        """Whether something was asked for in an earlier run, or was handed to a pool that does not give it back."""
        self._requests = 0
        """Rows that were handed to the fetch pool."""
        self._done: Done
        self._error: BaseException | None = None
        self._left = task.shard.count
        self._pending: list[tuple[int, Fetched]] = []
        self._pending_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._batches: set[asyncio.Task[None]] = set()
        self._suspects: set[int] = set()
        self._made = 0
        """Images that this run made."""
        self.to_score = 0
        """Images that have no scores yet, once all rows have ended."""

    @property
    def replaced(self) -> Replaced | None:
        """The version of the shard that is committed, None if none is."""
        return self._work.replaced

    @property
    def rows_ended(self) -> int:
        """Rows that have ended, those of an earlier run included."""
        return self.shard.count - self._left

    async def run(self) -> dict[str, Any] | None:
        """Run the shard; return its commit record, or None if it was suspended.

        Raises OutputError if it cannot be written, InputError if its rows cannot be read, OutputExists if
        its spool was made from other rows.
        """
        loop = asyncio.get_running_loop()
        source, journal = await loop.run_in_executor(self._tools.files, self._open)
        committed = False
        try:
            await self._fill(source, journal)
            if self.is_given_back:
                self._tools.tally.recovered -= self.rows_ended
            if self._error is not None:
                raise self._error
            if self._left or not await self._score(source, journal):
                return None
            record = await loop.run_in_executor(self._tools.files, self._commit, source, journal)
            committed = True
            self._count_unkept(record)
            return record
        finally:
            if committed or self.is_given_back:
                journal.spool.delete()
            else:
                journal.spool.close()

    def suspend(self) -> None:
        """End early: what has arrived goes to the spool, what has not is left for the next run."""
        self._suspended = True
        self._ended.set()

    def give_back(self) -> bool:
        """End early with nothing left of the shard here, if no row of it was asked for; return whether that is so.

        Rows that end without being asked for are made again by whoever has the shard next.
        """
        is_open = self.submitted.is_set() and not self._ended.is_set()
        if not is_open or self._is_begun or not self._requests:
            return False
        if not self._tools.pool.withdraw(self._done, self._requests):
            return False
        self.is_given_back = True
        self._ended.set()
        return True

    def _open(self) -> tuple[pa.RecordBatch, Journal]:
        tools, shard = self._tools, self.shard
        notes = ListNotes()
        source = results.one_batch(shard.load(notes))
        path, digest = self._work.prepare(shard.id, source, tools.fetch, tools.storage.make_work())
        if shard.captions is not None:
            # They come from the whole list: what is compared with it later are the rows of the shard alone.
            source = with_captions(source, shard.captions)
        facts = {"rows_digest": digest, **({LIST_NOTES: notes.counts} if notes.counts else {})}
        if tools.scorer is not None:
            facts[SCORED_BY] = tools.scorer.job.digest
        spool = Spool.open(path, shard.id, shard.count, digest, is_there=self._work.has_spool)
        return source, Journal(spool, facts, source)

    async def _score(self, source: pa.RecordBatch, journal: Journal) -> bool:
        """Have the images scored, where that is asked for; return whether all are, which they are not if suspended."""
        tools = self._tools
        if tools.scorer is None or not self._work.scores:
            return True
        from turbo_fetch.score.shard_scores import unscored_batches

        self.to_score = int(journal.spool.to_score.sum())
        spec = tools.scorer.job.spec
        batches = unscored_batches(tools.fetch, journal.spool, source, self.shard.id, spec.batch_size)
        asked: deque[asyncio.Future[pa.RecordBatch]] = deque()
        loop = asyncio.get_running_loop()
        try:
            while True:
                # One is made ready while the others are with the function.
                while len(asked) <= spec.processes:
                    batch = await loop.run_in_executor(tools.files, next, batches, None)
                    if batch is None:
                        break
                    asked.append(loop.run_in_executor(tools.scoring, tools.scorer.scores, *batch))
                if not asked:
                    return not self._suspended
                scores = await asked[0]
                asked.popleft()
                await loop.run_in_executor(tools.files, journal.add_scores, scores)
                self.to_score -= scores.num_rows
        except Suspended:
            return False
        finally:
            await asyncio.gather(*asked, return_exceptions=True)

    def _commit(self, source: pa.RecordBatch, journal: Journal) -> dict[str, Any]:
        times_s = (self._started_s, time.time())
        complete = CompleteShard(self.shard.id, source, journal.spool, journal.facts, times_s)
        storage, replaced = self._tools.storage, self._work.replaced
        record = self._work.commit(self._tools.fetch, storage, complete)
        if self._tools.is_aside and replaced is not None:
            note_replaced(storage, record, replaced)
        # Who has the output by now may be about to go on with the spool.
        storage.check_fence()
        return record

    async def _fill(self, source: pa.RecordBatch, journal: Journal) -> None:
        """Bring every row into the spool, unless suspended: suspects first, one by one, then all others."""
        spool = journal.spool
        recovered = int(spool.done.sum())
        self._left -= recovered
        self._tools.tally.recovered += recovered
        self._is_begun = recovered > 0
        self._suspects = set(spool.suspects)
        blamed = {row for row, deaths in spool.suspects.items() if deaths >= DEATHS_TO_BLAME}
        rows = [row for row in (~spool.done).nonzero()[0].tolist() if row not in blamed]
        rows.sort(key=lambda row: row not in self._suspects)
        verdict = _verdict(self._died_by)
        for row in blamed:
            self._take(row, results.not_fetched(*verdict), journal)
        await self._submit(source, rows, journal)
        self.submitted.set()
        if self._left == 0:
            self._ended.set()
        await self._ended.wait()
        self._flush(journal)
        while self._batches:
            await asyncio.wait(self._batches)

    async def _submit(self, source: pa.RecordBatch, rows: Sequence[int], journal: Journal) -> None:
        """Hand `rows` to the pool in their order, unless the shard ends meanwhile."""
        headers = self._work.headers()

        def done(row: int, fetched: Fetched) -> None:
            self._take(row, fetched, journal)

        self._done = done
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            found = self._tools.router.routes(part, source, headers, self.shard.duplicates)
            for row, failure in found.ended:
                done(row, results.not_fetched(*failure))
            self._requests += len(found.requests)
            self._is_begun |= bool(found.readings or found.series)
            self._tools.pool.submit(found.requests, done)
            self._tools.sources.submit(found.readings, found.series, done)
            await asyncio.sleep(0)
            if self._ended.is_set():
                return

    def _take(self, row: int, fetched: Fetched, journal: Journal) -> None:
        """Take what became of a row; called in the loop, once per row."""
        if row in self._suspects and fetched.body is not None:
            self._start_batch([(row, fetched)], journal)
            return
        self._pending.append((row, fetched))
        self._pending_bytes += len(fetched.body or b"")
        most = FIRST_IMAGES if self._tools.transform.decodes and not self._batches else BATCH_IMAGES
        if len(self._pending) >= most or self._pending_bytes >= BATCH_BYTES:
            self._flush(journal)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(BATCH_WAIT_S, self._flush, journal)

    def _flush(self, journal: Journal) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            batch, self._pending, self._pending_bytes = self._pending, [], 0
            self._start_batch(batch, journal)

    def _start_batch(self, batch: list[tuple[int, Fetched]], journal: Journal) -> None:
        task = asyncio.get_running_loop().create_task(self._transform(batch, journal))
        self._batches.add(task)
        task.add_done_callback(self._batch_ended)

    def _batch_ended(self, task: asyncio.Task[None]) -> None:
        """End the shard with what a batch ended with, of whatever kind: its rows will not come; run raises it again."""
        self._batches.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = error
            self._ended.set()

    async def _transform(self, batch: list[tuple[int, Fetched]], journal: Journal) -> None:
        """Transform and journal a batch; its bytes are free again afterwards, whatever happens."""
        loop = asyncio.get_running_loop()
        work = partial(_transform_and_journal, self._tools, batch, journal)
        try:
            if batch[0][0] in self._suspects:
                async with self._tools.alone:
                    outcomes = await loop.run_in_executor(self._tools.transforms, work)
            else:
                outcomes = await loop.run_in_executor(self._tools.transforms, work)
        finally:
            self._tools.budget.release(sum(len(fetched.body or b"") for _, fetched in batch))
        self._count(batch, outcomes)

    def _count(self, batch: list[tuple[int, Fetched]], outcomes: list[int]) -> None:
        tally = self._tools.tally
        self._made += outcomes.count(Outcome.SUCCESS.number)
        tally.outcomes.update(BY_NUMBER[number].label for number in outcomes)
        tally.body_bytes += sum(fetched.body_bytes for _, fetched in batch)
        tally.retries += sum(max(0, fetched.attempts - 1) for _, fetched in batch)
        tally.seconds.add(fetched.total_ms / 1000 for _, fetched in batch if fetched.attempts)
        tally.sizes.add(fetched.body_bytes for _, fetched in batch if fetched.body_bytes)
        self._left -= len(batch)
        if self._left == 0:
            self._ended.set()

    def _count_unkept(self, record: dict[str, Any]) -> None:
        """Count images anew that were made and are not kept."""
        counted = self._tools.tally.outcomes
        for label in (Outcome.FILTERED.label, Outcome.UNSCORED.label):
            count = min(record["outcomes"].get(label, 0), self._made)
            self._made -= count
            counted.update({label: count, Outcome.SUCCESS.label: -count} if count else {})


def _verdict(died_by: Signals | None) -> tuple[Outcome, str]:
    """Return how an image ends on which the process died again and again, by how it died last.

    Where memory is short the system kills a process from outside, or code without memory aborts one that has a limit.
    """
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    if died_by in _CRASHES and not (limited and died_by is Signals.SIGABRT):
        return Outcome.CORRUPT, "the decoder crashed on it"
    return Outcome.OUT_OF_MEMORY, "the process was ended while it made it, as where memory is short"


def _transform_and_journal(tools: Tools, batch: list[tuple[int, Fetched]], journal: Journal) -> list[int]:
    """Run one batch through the prefilter and the native transform into the spool; return the outcome numbers."""
    if tools.records is not None:
        urls = journal.source.column("url")
        batch = [(row, tools.records.unpacked(fetched, urls[row].as_py())) for row, fetched in batch]
    passed = prefilter(batch, journal.source, tools.fetch.input, tools.deny)
    with_body = [(row, fetched) for row, fetched in passed.ended if fetched.body is not None]
    without = [(row, fetched) for row, fetched in passed.ended if fetched.body is None]
    bodies = [fetched.body for _, fetched in with_body if fetched.body is not None]
    with journal.lock:
        journal.spool.intend([row for row, _ in with_body])
    outcomes: list[int] = []
    for places, transformed in tools.transform.parts(bodies, passed.boxes) if bodies else ():
        notes = [passed.notes[place] for place in places]
        noted = results.with_notes(transformed, notes) if any(notes) else transformed
        outcomes += _keep(tools, journal, [*(with_body[place] for place in places), *without], noted)
        without = []
    if without:
        outcomes += _keep(tools, journal, without, None)
    return outcomes


def _keep(
    tools: Tools, journal: Journal, ended: list[tuple[int, Fetched]], transformed: pa.RecordBatch | None
) -> list[int]:
    """Append the results of rows to the spool; return their outcome numbers."""
    finished = results.results_batch(ended, transformed, tools.fetch.image)
    with journal.lock:
        journal.spool.append(finished)
    outcomes: list[int] = finished.column("outcome").to_pylist()
    return outcomes
