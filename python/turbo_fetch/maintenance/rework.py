"""Work on finished shards: what `retry`, `refresh` and `score` have in common.

Their records are taken out of the manifest, each is made again on the engine, committed again, and what now is a
duplicate by content is dropped. Whoever is interrupted goes on by the same command.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from operator import not_

from turbo_fetch.arrow.schemas import CAPTIONS
from turbo_fetch.dataset import names
from turbo_fetch.dataset.manifest import Manifest, Record
from turbo_fetch.dataset.reader import StoredDataset, StoredShard
from turbo_fetch.duplicates import contents
from turbo_fetch.maintenance.existing_shard import StoredRows, StoredWork
from turbo_fetch.maintenance.source_rows import listed_shards, why_listed
from turbo_fetch.plan.sharder import Shard
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.summary import Summary
from turbo_fetch.runners.local import LocalRunner
from turbo_fetch.runners.steps import EngineSteps
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import EngineSpec, FetchSpec, Spec
from turbo_fetch.stages.fetch import Account, CommitSink, OutageGuard, runner_of
from turbo_fetch.stop import StopRequest


class _RowsOf:
    """How many rows the shards have that are worked on: a Total."""

    def __init__(self, known: Iterable[StoredWork]) -> None:
        self._rows = sum(each.shard.rows for each in known)

    def total_rows(self) -> tuple[int, bool]:
        """See Total."""
        return self._rows, False


class _NoCommits:
    """Takes records of shards that stay as they are."""

    def commit(self, record: Record) -> None:
        """See CommitSink."""


@dataclass(frozen=True, slots=True)
class Rework:
    """A locked dataset some of whose shards are worked on, with the spec by which they are made."""

    spec: Spec
    dataset: StoredDataset
    manifest: Manifest
    listener: ProgressListener
    stop: StopRequest

    def run(self, known: Sequence[StoredWork], *, requests: bool = True, replaces: bool = True) -> Summary:
        """Work on shards; return the account of it. Blocks.

        Without `requests` all that is needed is in the dataset, and this machine does the work. Without `replaces` they
        stay as they are. Raises what a run raises, InputError if a list is needed and is not there as it was, and
        Interrupted.
        """
        fetch, storage = self.fetch, self.dataset.storage
        if replaces:
            self.manifest.withdraw(each.shard.number for each in known)
        sink: CommitSink = self.manifest if replaces else _NoCommits()
        guard = OutageGuard(self.stop, fetch.http.network_patience_s)
        account = Account(sink, Summary(storage.url), self.listener, _RowsOf(known), guard)
        with guard.explaining(_how_to_resume):
            if requests:
                self._request(known, account)
            else:
                tasks = _stored_tasks(self.dataset, known)
                LocalRunner(fetch, self.spec.engine, account, self.stop).run(tasks)
            if replaces:
                engine = self.spec.engine if requests else EngineSpec()
                steps = EngineSteps(engine, self.listener, self.stop)
                contents.drop(fetch, storage, self.manifest, self.listener, steps)
        return account.summary

    @property
    def fetch(self) -> FetchSpec:
        """How shards are made."""
        assert self.spec.fetch is not None
        return self.spec.fetch

    def _request(self, known: Sequence[StoredWork], account: Account) -> None:
        """Work on shards on the engine of the spec; those that were begun on this machine go on here."""
        fetch, engine, work = self.fetch, self.spec.engine, self.dataset.storage.make_work()
        begun = {name for of_refresh in (False, True) for name, _ in names.spools(work, of_refresh)}
        is_here = [engine.kind == "local" or each.shard.name in begun for each in known]
        here = list(compress(known, is_here))
        if here:
            local = engine if engine.kind == "local" else EngineSpec()
            LocalRunner(fetch, local, account, self.stop).run(_tasks(self.dataset, fetch, here))
        elsewhere = list(compress(known, map(not_, is_here)))
        if elsewhere:
            runner = runner_of(engine.kind)(fetch, engine, account, self.stop)
            runner.run(_tasks(self.dataset, fetch, elsewhere))


def _how_to_resume() -> str:
    return "interrupted; what is done is saved. Run the same command again to resume"


def _tasks(dataset: StoredDataset, fetch: FetchSpec, known: Sequence[StoredWork]) -> Iterator[ShardTask]:
    """Yield finished shards as units of work: with rows of the dataset, or of the list if need be."""
    why = why_listed(fetch)
    if why is not None:
        wanted = {each.shard.number: each for each in known}
        for task in listed_shards(dataset.storage, fetch, wanted, why):
            yield _with_captions(dataset, wanted[task.shard.id].shard, task, fetch)
        return
    yield from _stored_tasks(
        dataset, known, None if fetch.input.hash_column is None else fetch.input.hash_kind
    )


def _stored_tasks(
    dataset: StoredDataset, known: Iterable[StoredWork], hash_kind: str | None = None
) -> Iterator[ShardTask]:
    """Yield finished shards as units of work, with rows of the dataset; `hash_kind` as for `StoredRows`."""
    for each in known:
        rows = StoredRows(dataset, each.shard, hash_kind)
        yield ShardTask(Shard(each.shard.number, each.shard.rows, rows), each)


def _with_captions(
    dataset: StoredDataset, stored: StoredShard, task: ShardTask, fetch: FetchSpec
) -> ShardTask:
    """Return a task whose rows have the captions of others too, as the dataset has them, if it does."""
    if fetch.duplicates.captions == "first":
        return task
    captions = dataset.metadata(stored).column(CAPTIONS).to_pylist()
    return replace(task, shard=replace(task.shard, captions=dict(enumerate(captions))))
