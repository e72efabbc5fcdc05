"""`retry`: ask again for the rows whose failure may pass, and leave everything else as it is.

A shard with such rows gets a spool that holds all its other rows, from its published files, and then runs like any
open shard: it can be killed at any point, and is published anew when its last row is in. Keys, and the bytes of all
other samples, stay; shards without such rows are not touched, unless what comes now makes duplicates of what they have.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.dataset import attempts, names
from turbo_fetch.dataset.attempts import Replaced
from turbo_fetch.dataset.card import write_card
from turbo_fetch.dataset.formats import check_packages
from turbo_fetch.dataset.job import is_complete, refuse_changes
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.manifest import Manifest, Record
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.reader import StoredDataset, stored_shard
from turbo_fetch.dataset.samples import rows_where
from turbo_fetch.errors import InputError, SpecError
from turbo_fetch.maintenance.existing_shard import (
    OF_VERSION,
    UnpublishedShard,
    begin_spool,
    stored_results,
    stored_scores,
    unpublished_shards,
)
from turbo_fetch.maintenance.rework import Rework
from turbo_fetch.outcomes import Outcome
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.summary import counted, human_time
from turbo_fetch.shard.commit import list_facts
from turbo_fetch.sources.packages import check_sources
from turbo_fetch.spec import FetchSpec, Spec
from turbo_fetch.spool.spool import spool_identity
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

RETRYABLE: Final = frozenset(outcome.label for outcome in Outcome if outcome.retryable)
_RETRYABLE_NUMBERS: Final = pa.array([outcome.number for outcome in Outcome if outcome.retryable], pa.uint8())


@dataclass(frozen=True, slots=True)
class RetriedShard(UnpublishedShard):
    """An existing shard whose rows with a retryable failure are asked for again."""

    dataset: StoredDataset
    """As `bare` opens it."""
    version: Replaced

    @property
    def replaced(self) -> Replaced:
        """See ShardWork."""
        return self.version

    def prepare(self, shard: int, source: pa.RecordBatch, fetch: FetchSpec, work: Path) -> tuple[Path, str]:
        """See ShardWork."""
        path = work / names.spool(self.shard.name)
        kept = map(_final, stored_results(self.dataset, self.shard))
        begin_spool(path, self.shard, self.facts, kept, stored_scores(self.dataset, self.shard, fetch.score))
        return path, self.rows_digest


@dataclass(slots=True)
class Retried:
    """What a retry came to."""

    path: str
    asked: int = 0
    """Rows whose failure was retryable."""
    shards: int = 0
    """Shards that were written anew."""
    recovered: int = 0
    """Rows that are samples now."""
    wall_s: float = 0.0
    before: Counter[str] = field(default_factory=Counter)
    """Rows of those shards by outcome, before."""
    after: Counter[str] = field(default_factory=Counter)
    """The same, now."""
    is_unfinished: bool = False
    """Whether the run into the dataset has not come to its end."""

    causes: list[str] = field(default_factory=list)
    """Why many rows of those shards failed again, in sentences that name what to change."""

    def text(self) -> str:
        """Return it as lines for a person."""
        lines = [f"dataset   {self.path}"]
        if self.asked:
            lines.append(
                f"retried   {counted(self.asked, 'row')} of {counted(self.shards, 'shard')} "
                f"in {human_time(self.wall_s)}: "
                f"{self.recovered:,} are samples now"
            )
        else:
            lines.append("retried   nothing: no row of a finished shard has failed in a way that may pass")
        if self.is_unfinished:
            lines.append("note      the list is not done yet: `turbo-fetch run` with its spec continues it")
        left = [(label, count) for label, count in self.after.most_common() if label != Outcome.SUCCESS.label]
        if left:
            lines.append("failures  " + ", ".join(f"{label} {count:,}" for label, count in left))
        lines += [f"cause     {cause}" for cause in self.causes]
        return "\n".join(lines)


def retry(spec: Spec, listener: ProgressListener, stop: StopRequest) -> Retried:
    """Retry the dataset of the spec, with its `[fetch.http]`, on its engine; blocks until done.

    Raises what a run raises, and DatasetError if published files are damaged; after Interrupted the same call goes
    on where it stopped.
    """
    fetch = spec.fetch
    if fetch is None:
        raise SpecError("the spec has no table [fetch]; expected the spec of a dataset")
    started_s = time.monotonic()
    check_packages(fetch.output.format)
    check_sources(fetch)
    storage = open_place(fetch.output.path, fetch.output.spool)
    result = Retried(storage.url)
    with locked(storage, listener.note, stop):
        refuse_changes(storage, fetch)
        with Manifest.open(storage) as manifest:
            manifest.take(attempts.recover(storage, manifest.committed))
            affected = {record["shard"]: record for record in manifest.records() if _asked(record)}
            for record in affected.values():
                result.before.update(record["outcomes"])
                result.asked += _asked(record)
            result.shards = len(affected)
            dataset = StoredDataset.bare(storage)
            unpublished = list(unpublished_shards(storage, manifest.committed, but=affected))
            _discard_spent(storage, manifest, {*affected, *(each.shard.number for each in unpublished)})
            result.is_unfinished = not is_complete(storage)
            if not manifest.committed and not unpublished:
                raise InputError(
                    f"{storage.url}: no shard is finished yet, so there is nothing to retry; `turbo-fetch run` with "
                    "its spec resumes where it stopped"
                )
            known = [*unpublished, *(_known(dataset, record) for record in affected.values())]
            summary = Rework(spec, dataset, manifest, listener, stop).run(known)
            numbers = {each.shard.number for each in known}
            for record in manifest.records():
                if record["shard"] in numbers:
                    result.after.update(record["outcomes"])
        # One that was killed may have come to all but this.
        write_card(storage)
        attempts.discard_attempts(storage, is_complete=not result.is_unfinished)
    result.causes = summary.causes
    result.recovered = max(0, result.after["success"] - result.before["success"])
    result.wall_s = time.monotonic() - started_s
    return result


def _asked(record: Record) -> int:
    return sum(count for label, count in record["outcomes"].items() if label in RETRYABLE)


def _discard_spent(storage: Storage, manifest: Manifest, needed: Container[int]) -> None:
    """Delete spools that were begun with an earlier version of their shard, but for those of shards that need theirs.

    A power loss can leave a part of one whose shard it let be published before.
    """
    left = {int(name): path for name, path in names.spools(storage.work) if int(name) not in needed}
    for record in manifest.records() if left else ():
        if path := left.get(record["shard"]):
            begun = (spool_identity(path) or {}).get("facts", {}).get(OF_VERSION)
            if begun not in {None, stored_shard(record).record}:
                storage.check_fence()
                path.unlink()


def _known(dataset: StoredDataset, record: Record) -> RetriedShard:
    return RetriedShard(stored_shard(record), list_facts(record), dataset, Replaced.by(record))


def _final(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows that are not to be asked for again."""
    return rows_where(batch, pc.invert(pc.is_in(batch.column("outcome"), _RETRYABLE_NUMBERS)))
