"""`score`: what the function of `[fetch.score]` says of a dataset that is finished already, shard by shard.

A shard gets a spool that holds all its rows, from its published files, and then ends like one of a run: nothing is
requested, its images are scored, and it is published anew. So it can be killed at any point, and what comes of it is
what a run with the function would have made.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from turbo_fetch.dataset import names
from turbo_fetch.dataset.card import write_card
from turbo_fetch.dataset.formats import check_packages
from turbo_fetch.dataset.job import is_complete, refuse_changes, replace_essentials
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.manifest import Manifest, Record
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.reader import StoredDataset, stored_shard
from turbo_fetch.errors import InputError, SpecError
from turbo_fetch.maintenance.existing_shard import (
    UnpublishedShard,
    begin_spool,
    list_columns,
    stored_results,
    unpublished_shards,
)
from turbo_fetch.maintenance.rework import Rework
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.summary import counted, human_time
from turbo_fetch.score.check import check_output_columns
from turbo_fetch.score.messages import SCORED_BY, ScoreJob
from turbo_fetch.shard.commit import list_facts
from turbo_fetch.spec import FetchSpec, Spec
from turbo_fetch.stop import StopRequest

CHANGING = frozenset({"score", "duplicates"})
"""Tables of `[fetch]` that may be others than those that the dataset was made with."""


@dataclass(frozen=True, slots=True)
class RescoredShard(UnpublishedShard):
    """An existing shard whose images are scored."""

    dataset: StoredDataset
    """As `bare` opens it."""

    @property
    def rows_digest(self) -> str:
        """See ExistingShard; a shard of an export has none."""
        return str(self.facts.get("rows_digest"))

    def prepare(self, shard: int, source: pa.RecordBatch, fetch: FetchSpec, work: Path) -> tuple[Path, str]:
        """See ShardWork."""
        path = work / names.spool(self.shard.name)
        facts = {**self.facts, "rows_digest": self.rows_digest}
        begin_spool(path, self.shard, facts, stored_results(self.dataset, self.shard))
        return path, self.rows_digest


@dataclass(slots=True)
class Rescored:
    """What scoring a finished dataset came to."""

    path: str
    shards: int = 0
    """Shards that were written anew."""
    wall_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Rows of the dataset by outcome, now."""

    def text(self) -> str:
        """Return it as lines for a person."""
        lines = [
            f"dataset   {self.path}",
            f"scored    {counted(self.shards, 'shard')} in {human_time(self.wall_s)}"
            if self.shards
            else "scored    nothing: all shards have these scores",
            f"samples   {self.outcomes['success']:,} of {self.outcomes.total():,} rows",
        ]
        left = [(label, count) for label, count in self.outcomes.most_common() if label != "success"]
        if left:
            lines.append("failures  " + ", ".join(f"{label} {count:,}" for label, count in left))
        return "\n".join(lines)


def score(spec: Spec, listener: ProgressListener, stop: StopRequest) -> Rescored:
    """Score the dataset of the spec on this machine; blocks until done. No request is made.

    Raises what a run raises, and DatasetError if published files are damaged; after Interrupted the same call goes on
    where it stopped.
    """
    fetch = spec.fetch
    if fetch is None or fetch.score is None:
        raise SpecError(
            "the spec has no table [fetch.score]; expected one with `function` and `columns`, in a spec or by --set"
        )
    started_s = time.monotonic()
    check_packages(fetch.output.format)
    job = ScoreJob.of(fetch.score)
    storage = open_place(fetch.output.path, fetch.output.spool)
    result = Rescored(storage.url)
    with locked(storage, listener.note, stop), Manifest.open(storage) as manifest:
        refuse_changes(storage, fetch, but=CHANGING)
        if not is_complete(storage):
            raise InputError(
                f"{storage.url}: the list is not done yet; `turbo-fetch run` with its spec continues it"
            )
        dataset = StoredDataset.bare(storage)
        records = [record for record in manifest.records() if record.get(SCORED_BY) != job.digest]
        if records:
            check_output_columns(fetch, list_columns(dataset.metadata(stored_shard(records[0]))).schema)
        replace_essentials(storage, spec, CHANGING)
        affected = {record["shard"]: _known(dataset, record, job) for record in records}
        unpublished = list(unpublished_shards(storage, manifest.committed, but=affected))
        known = [*unpublished, *affected.values()]
        result.shards = len(known)
        Rework(spec, dataset, manifest, listener, stop).run(known, requests=False)
        for record in manifest.records():
            result.outcomes.update(record["outcomes"])
        # One that was killed may have come to all but this.
        write_card(storage)
    result.wall_s = time.monotonic() - started_s
    return result


def _known(dataset: StoredDataset, record: Record, job: ScoreJob) -> RescoredShard:
    return RescoredShard(stored_shard(record), {**list_facts(record), SCORED_BY: job.digest}, dataset)
