"""The fetch stage: check, plan, run, account for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Final, Protocol

from turbo_fetch import __version__
from turbo_fetch.dataset import attempts, names
from turbo_fetch.dataset.card import write_card
from turbo_fetch.dataset.description import refuse_old_layout
from turbo_fetch.dataset.formats import check_packages
from turbo_fetch.dataset.job import Dataset, refuse_other_types
from turbo_fetch.dataset.keys import check_key_column
from turbo_fetch.dataset.leftovers import discard_spools_of_runs
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.manifest import Record, read_record
from turbo_fetch.dataset.place import open_place, refuse_process_memory
from turbo_fetch.duplicates import urls
from turbo_fetch.errors import Interrupted, SpecError, Unreachable
from turbo_fetch.fetch import proxies
from turbo_fetch.monitor import trackers
from turbo_fetch.monitor.recorder import recorded
from turbo_fetch.monitor.report import reported
from turbo_fetch.plan.sharder import Plan
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.outage import OUTAGES, PATIENCE_S, Outage
from turbo_fetch.progress.summary import Summary, human_time
from turbo_fetch.progress.tally import Tally
from turbo_fetch.runners.local import LocalRunner
from turbo_fetch.runners.messages import ShardDone
from turbo_fetch.runners.steps import EngineSteps
from turbo_fetch.runners.supervisor import Listener
from turbo_fetch.score.check import check_output_columns, other_scores
from turbo_fetch.shard.deny_lists import DenyList
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.sources.packages import check_sources
from turbo_fetch.spec import EngineSpec, FetchSpec, Spec
from turbo_fetch.stages.unchanged_list import refuse_changed_list
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

TOLD_FROM_S: Final = 1.5
"""How long an outage lasts at least that is told; a resolver that is asked too much makes many short ones."""
NO_CONTACT: Final = (
    "fetch.http.user_agent has no contact: add a web page or an email address, so that site owners can reach you "
    "before they block you"
)


class Runner(Protocol):
    """Runs shards somewhere."""

    def __init__(
        self, fetch: FetchSpec, engine: EngineSpec, listener: Listener, stop: StopRequest
    ) -> None: ...

    def run(self, tasks: Iterator[ShardTask]) -> None:
        """Run all shards; raises TurboFetchError if that is not possible, Interrupted if stopped."""


def run(spec: Spec, listener: ProgressListener, stop: StopRequest) -> Summary:
    """Run the `[fetch]` stage and return the account of its dataset; blocks until done.

    Raises SpecError, InputError, OutputError, OutputExists, ShardFailed, MissingExtra, or Interrupted, after
    which the same call resumes where it stopped.
    """
    fetch = spec.fetch
    if fetch is None:
        raise SpecError("the spec has no table [fetch]; expected one with [fetch.input] and [fetch.output]")
    started_s = time.monotonic()
    trackers.check(spec.track.to)
    plan = checked_plan(fetch)
    storage = open_place(fetch.output.path, fetch.output.spool)
    refuse_process_memory(storage)
    refuse_old_layout(storage)
    storage.probe(names.PROBE)
    if fetch.output.if_exists == "extend":
        refuse_other_types(storage, plan.schema())
    with (
        reported(spec.track, storage, listener),
        locked(storage, listener.note, stop),
        ExitStack() as last,
        Dataset.open(storage, spec, plan.fingerprint, __version__) as dataset,
    ):
        dataset.take(attempts.recover(storage, dataset.committed))
        _discard_published_spools(storage, dataset.committed)
        summary = Summary(storage.url)
        if not dataset.is_planned_from(plan.fingerprint):
            refuse_changed_list(plan, dataset, fetch, listener, stop)
            dataset.note_files(plan.fingerprint)
        if fetch.score is not None and (told := other_scores(fetch.score, dataset.records())) is not None:
            listener.note(told)
        if dataset.is_complete:
            return _sufficient(_second_look(summary, dataset, storage), fetch.min_success)
        guard = OutageGuard(stop, fetch.http.network_patience_s)
        asks_sites = fetch.input.image_column is None and any(file.format != "images" for file in plan.files)
        if asks_sites and not fetch.http.has_contact:
            listener.note(NO_CONTACT)
        if fetch.http.max_mbps is not None:
            listener.note(f"downloads take at most {fetch.http.max_mbps:g} Mbit/s (fetch.http.max_mbps)")
        if (unused_proxies := proxies.unused(fetch.http.proxy, os.environ)) is not None:
            listener.note(unused_proxies)
        try:
            with guard.explaining(lambda: how_to_resume(summary)):
                known = look_ahead(fetch, plan, dataset, storage, listener, stop)
                with recorded(spec.track, "fetch", storage, listener) as recorder:
                    account = Account(dataset, summary, recorder, plan, guard)
                    runner = runner_of(spec.engine.kind)(fetch, spec.engine, account, stop)
                    make_shards(runner, account, plan, dataset, dataset.committed, known)
                if fetch.duplicates.by_content:
                    from turbo_fetch.duplicates import contents

                    if contents.drop(
                        fetch, storage, dataset, listener, EngineSteps(spec.engine, listener, stop)
                    ):
                        _recount(summary, dataset)
        finally:
            summary.wall_s = time.monotonic() - started_s
            summary.left_out = plan.left_out
        if not plan.is_as_found:
            refuse_changed_list(plan, dataset, fetch, listener, stop)
        dataset.refuse_losses()
        dataset.complete()
        attempts.discard_attempts(storage)
        # Reads the manifest, and nobody else may be at work yet.
        last.callback(write_card, storage)
    return _sufficient(summary, fetch.min_success)


def checked_plan(fetch: FetchSpec) -> Plan:
    """Return how the list becomes shards, after all checks that leave the output alone.

    Raises SpecError, InputError or MissingExtra.
    """
    check_packages(fetch.output.format)
    check_sources(fetch)
    plan = Plan.of(fetch.input, fetch.output.samples_per_shard)
    check_output_columns(fetch, plan.schema())
    check_key_column(plan.schema(), fetch.output)
    return plan


def look_ahead(
    fetch: FetchSpec,
    plan: Plan,
    dataset: Dataset,
    storage: Storage,
    listener: ProgressListener,
    stop: StopRequest,
) -> urls.KnownUrls | None:
    """Do what comes before the first request; return the rows that need none, see `urls.find`."""
    DenyList.open(fetch, storage)
    return urls.find(fetch, plan, storage, dataset.first_shard, listener, stop)


def make_shards(
    runner: Runner,
    account: Account,
    plan: Plan,
    dataset: Dataset,
    skip: Container[int],
    known: urls.KnownUrls | None,
) -> None:
    """Make the shards of a list but those to `skip`; raises as `Runner.run`."""
    for record in dataset.records():
        account.resume(record)
    with closing(plan.shards(dataset.first_shard, skip)) as shards:
        runner.run(map(ShardTask, urls.marked(shards, known)))


def _discard_published_spools(storage: Storage, committed: frozenset[int]) -> None:
    """Delete the spools of shards that were published from them: whoever did so was killed before it came to that.

    A spool of another command than `run` that has grown since its shard was published goes on with that.
    """
    discard_spools_of_runs(storage, committed)
    for name, path in names.spools(storage.work):
        record = read_record(storage, name) if int(name) in committed else None
        if record is not None and record["end_time"] >= path.stat().st_mtime:
            storage.check_fence()
            path.unlink()


def _sufficient(summary: Summary, min_success: float) -> Summary:
    """Return the account; raises TooFewSamples if a share of samples is demanded and not reached."""
    if min_success:
        summary.check(min_success)
    return summary


def _second_look(summary: Summary, dataset: Dataset, storage: Storage) -> Summary:
    """Account for a dataset that is complete; only a card that a killed run did not come to is still to be written."""
    for record in dataset.records():
        summary.add_shard(record)
    summary.was_complete = True
    if not storage.exists(names.README):
        write_card(storage)
    return summary


def runner_of(kind: str) -> type[Runner]:
    """Return the runner of an engine; raises MissingExtra if its package is not installed."""
    if kind == "ray":
        from turbo_fetch.runners.ray.runner import RayRunner

        return RayRunner
    if kind == "spark":
        from turbo_fetch.runners.spark.runner import SparkRunner

        return SparkRunner
    return LocalRunner


class CommitSink(Protocol):
    """Where records are committed."""

    def commit(self, record: Record) -> None:
        """Add the record of a published shard."""


class Total(Protocol):
    """Who knows how many rows there are."""

    def total_rows(self) -> tuple[int | None, bool]:
        """Return how many, as far as is known, and whether that is an estimate."""


class OutageGuard:
    """Tells of outages, and stops a run that reaches nobody."""

    def __init__(self, stop: StopRequest, patience_s: float) -> None:
        self.outage = Outage(patience_s)
        self.verdict: str | None = None
        """Why it stopped the run, if it did."""
        self._stop = stop
        self._has_told = False
        self._began_s: float | None = None

    @contextmanager
    def explaining(self, how_to_resume: Callable[[], str]) -> Iterator[None]:
        """Have an interruption say how to go on; raises Unreachable instead if that is why the run was stopped."""
        try:
            yield
        except Interrupted as error:
            if self.verdict is not None:
                raise Unreachable(self.verdict) from error
            raise Interrupted(how_to_resume()) from error

    def heard(self, worker: int, tally: Tally, listener: ProgressListener) -> None:
        """Take what a worker tells, pass on what a person should know, and stop the run if it is hopeless."""
        now_s = time.monotonic()
        self.outage.heard(worker, tally, now_s)
        self._tell(now_s, listener)
        if self._stop:
            return
        if self.outage.is_hopeless(now_s):
            self.verdict = self.outage.text()
            self._stop.ask()
        elif self.outage.cause() is None or self.outage.workers_down:
            self._has_told &= not tally.answers
        elif not self._has_told:
            self._has_told = True
            listener.note(
                f"no server responds any more; if that lasts for {PATIENCE_S:g} s, the run stops. Rows that fail "
                "meanwhile will be requested again"
            )

    def _tell(self, now_s: float, listener: ProgressListener) -> None:
        """Say that an outage begins, or is over."""
        cause = self.outage.down_cause()
        if cause is not None and self._began_s is None and self.outage.longest_s() >= TOLD_FROM_S:
            self._began_s = now_s - self.outage.longest_s()
            workers = self.outage.workers_down
            where = (
                "" if workers == len(self.outage.down) else f" ({workers} of {len(self.outage.down)} workers)"
            )
            listener.note(
                f"outage: {OUTAGES[cause]}{where}. No request starts until that is over; rows that failed by it are "
                f"requested again. After {human_time(self.outage.patience_s)} the run stops, to be resumed"
            )
        elif cause is None and self._began_s is not None:
            listener.note(f"the outage is over, after {human_time(now_s - self._began_s)}")
            self._began_s = None


class Account:
    """Accounts for a run: commits records, adds up, and passes on to the listener."""

    def __init__(
        self,
        sink: CommitSink,
        summary: Summary,
        listener: ProgressListener,
        plan: Total,
        guard: OutageGuard,
    ) -> None:
        self.summary = summary
        self._guard = guard
        self._sink = sink
        self._listener = listener
        self._plan = plan

    def resume(self, record: dict[str, object]) -> None:
        """Count a shard of an earlier run."""
        self.summary.add_shard(record)
        self._listener.shard_done(int(str(record["rows"])), resumed=True)

    def tally(self, worker: int, tally: Tally) -> None:
        """See Listener."""
        self.summary.run_rows += tally.rows
        self.summary.downloaded_bytes += tally.body_bytes
        self._listener.add(worker, tally)
        self._guard.heard(worker, tally, self._listener)

    def done(self, message: ShardDone) -> None:
        """See Listener."""
        self._sink.commit(message.record)
        self.summary.add_shard(message.record)
        self._listener.shard_done(message.record["rows"], resumed=False)

    def worker_died(self, worker: int, why: str) -> None:
        """See Listener."""
        self._listener.note(f"worker {worker} {why}; a new worker resumes its shards")

    def worker_ended(self, worker: int, open_rows: int | None) -> None:
        """See Listener."""
        self._guard.outage.gone(worker)
        if open_rows is not None:
            self._listener.worker_gone(worker, open_rows)

    def note(self, text: str) -> None:
        """See Listener."""
        self._listener.note(text)

    def tick(self) -> None:
        """See Listener."""
        self._listener.total(*self._plan.total_rows())
        self._listener.refresh()


def _recount(summary: Summary, dataset: Dataset) -> None:
    """Count the dataset anew from its commit records."""
    counted = Summary(summary.path)
    for record in dataset.records():
        counted.add_shard(record)
    for name in ("rows", "shards", "outcomes", "reasons", "failing_hosts", "list_notes", "dataset_bytes"):
        setattr(summary, name, getattr(counted, name))


def how_to_resume(summary: Summary) -> str:
    """Return the sentence for a run that was interrupted."""
    return (
        f"interrupted after {summary.run_rows:,} rows; everything that arrived is saved in {summary.path}. "
        "Run the same command again to resume"
    )
