"""`refresh`: ask again for every sample, conditionally, and report what has drifted; apply it if that is wanted.

A sample is asked for with the validator of its last response (If-None-Match, else If-Modified-Since), so that one
that has not changed costs no body; a server that sends the body all the same is judged by its hash.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.rows import rows_at
from turbo_fetch.dataset import attempts, names
from turbo_fetch.dataset.attempts import Replaced
from turbo_fetch.dataset.card import write_card
from turbo_fetch.dataset.formats import check_packages
from turbo_fetch.dataset.formats.table_file import TableFile
from turbo_fetch.dataset.job import is_complete, refuse_changes
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.manifest import Manifest, Record
from turbo_fetch.dataset.metadata_files import opened
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.reader import StoredDataset, StoredShard, stored_shard
from turbo_fetch.dataset.samples import rows_where
from turbo_fetch.errors import OutputExists, SpecError
from turbo_fetch.maintenance.existing_shard import (
    begin_spool,
    stored_results,
    stored_scores,
    unpublished_shards,
    written_spool,
)
from turbo_fetch.maintenance.rework import Rework
from turbo_fetch.maintenance.staleness import CHANGED, GONE, REFUSED, drifts, paired
from turbo_fetch.outcomes import BY_NUMBER, Outcome
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.summary import human_time
from turbo_fetch.shard.commit import commit_shard, list_facts
from turbo_fetch.shard.complete_shard import CompleteShard
from turbo_fetch.sources.packages import check_sources
from turbo_fetch.spec import FetchSpec, ScoreSpec, Spec
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

REPORT: Final = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("drift", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("http_status", pa.uint16()),
        pa.field("old_digest", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("etag", pa.string()),
        pa.field("last_modified", pa.string()),
    ]
)
"""One row for each sample that was asked for; `digest` is null where no body came."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done about drift: `apply` takes changed images and drops refused ones, `drop_gone` drops gone ones."""

    apply: bool = False
    drop_gone: bool = False

    @property
    def applied(self) -> frozenset[str]:
        """The drifts that change the dataset."""
        if not self.apply:
            return frozenset()
        return frozenset({CHANGED, REFUSED, GONE} if self.drop_gone else {CHANGED, REFUSED})


@dataclass(frozen=True, slots=True)
class RefreshedShard:
    """An existing shard all of whose samples are asked for again."""

    dataset: StoredDataset
    """As `bare` opens it."""
    shard: StoredShard
    facts: Mapping[str, Any]
    """What its record says of the list."""
    choice: Choice
    version: Replaced
    has_spool: ClassVar[bool] = True

    @property
    def replaced(self) -> Replaced:
        """See ShardWork."""
        return self.version

    @property
    def scores(self) -> bool:
        """See ShardWork: where nothing is applied, nobody would see them."""
        return self.choice.apply

    @property
    def rows_digest(self) -> str:
        """See ExistingShard."""
        return str(self.facts.get("rows_digest"))

    def prepare(self, shard: int, source: pa.RecordBatch, fetch: FetchSpec, work: Path) -> tuple[Path, str]:
        """See ShardWork."""
        path = work / names.refresh_spool(self.shard.name)
        failed = (
            rows_where(batch, pc.not_equal(batch.column("outcome"), Outcome.SUCCESS.number))
            for batch in stored_results(self.dataset, self.shard)
        )
        begin_spool(path, self.shard, {"rows_digest": self.rows_digest}, failed)
        return path, self.rows_digest

    def headers(self) -> Mapping[int, Mapping[str, str]]:
        """See ShardWork."""
        ledger = self.dataset.ledger(self.shard)
        rows = zip(ledger.column("etag").to_pylist(), ledger.column("last_modified").to_pylist(), strict=True)
        return {
            row: _conditions(etag, modified) for row, (etag, modified) in enumerate(rows) if etag or modified
        }

    def commit(self, fetch: FetchSpec, storage: Storage, complete: CompleteShard) -> Record:
        """See ShardWork: the report of the shard is published, and the shard anew if something is applied.

        A shard that has a report and a spool is finished by the next call, from the spool alone.
        """
        dataset = self.dataset
        work, name, counts = storage.make_work(), self.shard.name, Counter[str]()
        report = TableFile(storage.make_staging() / names.staged(names.refresh_report(name)), REPORT)
        pairs = paired(stored_results(dataset, self.shard), complete.spool.sorted_batches())
        taken: list[npt.NDArray[np.bool_]] = []
        merged = self._merged(pairs, dataset.ledger(self.shard), report, counts, taken)
        record = dataset.record(self.shard)
        assert record is not None
        path = work / names.spool(name)
        with ExitStack() as spools:
            if self.choice.apply:
                scores = self._merged_scores(fetch.score, complete.spool.scores(), taken)
                whole = written_spool(path, self.shard, self.facts, merged, scores)
                spools.callback(whole.close)
            else:
                for _ in merged:
                    pass
            finished = report.finish(names.refresh_report(name))
            storage.publish(finished.path, finished.name)
            if any(counts[drift] for drift in self.choice.applied):
                refreshed = replace(complete, spool=whole, facts=dict(self.facts))
                record = commit_shard(fetch, storage, refreshed, self.replaced)
            path.unlink(missing_ok=True)
        return record

    def _merged(
        self,
        pairs: Iterator[tuple[pa.RecordBatch, pa.RecordBatch]],
        ledger: pa.Table,
        report: TableFile,
        counts: Counter[str],
        all_taken: list[npt.NDArray[np.bool_]],
    ) -> Iterator[pa.RecordBatch]:
        """Yield for each row what it is now, the old or the new; note drift in report and counts, and what is new."""
        place = 0
        for old, new in pairs:
            found = drifts(old, new)
            counts.update(drift for drift in found if drift is not None)
            report.add(_report(found, old, new, ledger.slice(place, old.num_rows)))
            place += old.num_rows
            taken = np.array([drift in self.choice.applied for drift in found])
            all_taken.append(taken)
            both = pa.concat_batches([old, new])
            yield rows_at(both, (np.arange(old.num_rows) + taken * old.num_rows).astype(np.uint32))

    def _merged_scores(
        self, score: ScoreSpec | None, new: pa.Table | None, taken: list[npt.NDArray[np.bool_]]
    ) -> Iterator[pa.RecordBatch]:
        """Yield the scores of all rows, those of new images from the spool; once it is known which are taken."""
        is_taken = np.concatenate(taken)
        for old in stored_scores(self.dataset, self.shard, score):
            yield old.filter(pa.array(~is_taken[old.column("row").to_numpy()]))
        for batch in () if new is None else new.to_batches():
            yield batch.filter(pa.array(is_taken[batch.column("row").to_numpy()]))


@dataclass(slots=True)
class Refreshed:
    """What a refresh came to."""

    path: str
    report: str
    applied: bool
    asked: int = 0
    wall_s: float = 0.0
    drift: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """Return it as lines for a person."""
        drift = ", ".join(f"{name} {count:,}" for name, count in self.drift.most_common()) or "none"
        state = "applied to the dataset" if self.applied else "reported; the dataset is as it was"
        return "\n".join(
            [
                f"dataset   {self.path}",
                f"asked     {self.asked:,} samples in {human_time(self.wall_s)}",
                f"drift     {drift}",
                f"          {state}",
                f"report    {self.report}",
            ]
        )


def refresh(spec: Spec, choice: Choice, listener: ProgressListener, stop: StopRequest) -> Refreshed:
    """Refresh the dataset of the spec, with its `[fetch.http]`, on its engine; blocks until done.

    Raises what a run raises, SpecError if the dataset has no hashes, and OutputExists if a run or a retry is open;
    after Interrupted the same call resumes where it stopped.
    """
    fetch = spec.fetch
    if fetch is None:
        raise SpecError("the spec has no table [fetch]; expected the spec of a dataset")
    if fetch.image.digest == "none":
        raise SpecError(
            'fetch.image.digest is "none": without hashes a changed image cannot be told; expected one'
        )
    started_s = time.monotonic()
    check_packages(fetch.output.format)
    check_sources(fetch)
    storage = open_place(fetch.output.path, fetch.output.spool)
    with locked(storage, listener.note, stop):
        with Manifest.open(storage) as manifest:
            refuse_changes(storage, fetch)
            manifest.take(attempts.recover(storage, manifest.committed))
            dataset = StoredDataset.bare(storage)
            rework = Rework(spec, dataset, manifest, listener, stop)
            _publish_rest(rework)
            _refuse_open_shards(storage, manifest.committed)
            finished = _begin(storage, choice)
            records = (record for record in manifest.records() if record["name"] not in finished)
            rework.run([_known(dataset, record, choice) for record in records], replaces=choice.apply)
            attempts.discard_attempts(storage, is_complete=is_complete(storage))
        _discard_spools(storage)
        if choice.apply:
            write_card(storage)
        storage.write_bytes(names.REFRESH_STATE, orjson.dumps({**_state(choice), "complete": True}))
    result = Refreshed(storage.url, f"{storage.url}/{names.refresh_report('*')}", choice.apply)
    result.drift = _count(storage)
    result.asked = result.drift.total()
    result.wall_s = time.monotonic() - started_s
    return result


def _known(dataset: StoredDataset, record: Record, choice: Choice) -> RefreshedShard:
    version = Replaced.by(record, names.refresh_report(record["name"]))
    return RefreshedShard(dataset, stored_shard(record), list_facts(record), choice, version)


def _conditions(etag: str | None, modified: str | None) -> dict[str, str]:
    return {"If-None-Match": etag} if etag else {"If-Modified-Since": str(modified)}


def _report(
    found: list[str | None], old: pa.RecordBatch, new: pa.RecordBatch, ledger: pa.Table
) -> pa.RecordBatch:
    """Return the rows of the report for a range of rows."""
    lines = ledger.select(["key", "url"]).combine_chunks()
    columns: dict[str, Any] = {
        "key": lines.column("key").combine_chunks(),
        "url": lines.column("url").combine_chunks(),
        "drift": pa.array([drift or "" for drift in found], pa.string()),
        "outcome": pa.array(
            [BY_NUMBER[number].label for number in new.column("outcome").to_pylist()], pa.string()
        ),
        "old_digest": old.column("digest"),
    }
    whole = pa.RecordBatch.from_arrays(
        [columns[field.name] if field.name in columns else new.column(field.name) for field in REPORT],
        schema=REPORT,
    )
    return whole.filter(pa.array([drift is not None for drift in found], pa.bool_()))


def _state(choice: Choice) -> dict[str, bool]:
    return {"apply": choice.apply, "drop_gone": choice.drop_gone}


def _begin(storage: Storage, choice: Choice) -> set[str]:
    """Begin a report, or go on with one; return the names of the shards that it has already."""
    begun = {**_state(choice), "complete": False}
    if _stored_state(storage) == begun:
        return _reports(storage)
    storage.delete(names.REFRESH)
    _discard_spools(storage)
    storage.write_bytes(names.REFRESH_STATE, orjson.dumps(begun))
    return set()


def _stored_state(storage: Storage) -> Any:
    """Return what the last refresh was and whether it came to its end, None if that is not known."""
    try:
        return orjson.loads(storage.read_bytes(names.REFRESH_STATE))
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None


def _discard_spools(storage: Storage) -> None:
    for _, path in names.spools(storage.make_work(), of_refresh=True):
        path.unlink()


def _publish_rest(rework: Rework) -> None:
    """Publish the shards that an earlier command was publishing when it was killed.

    A refresh publishes none before its report. A spool of one that has no report is made anew.
    """
    storage, manifest = rework.dataset.storage, rework.manifest
    state, reports = _stored_state(storage), _reports(storage)
    if isinstance(state, dict) and state.get("apply") and not state.get("complete"):
        for name, path in names.spools(storage.make_work()):
            if int(name) in manifest.committed and name not in reports:
                path.unlink()
    if rest := list(unpublished_shards(storage, manifest.committed)):
        rework.run(rest)


def _refuse_open_shards(storage: Storage, committed: frozenset[int]) -> None:
    spools = names.spools(storage.make_work())
    if spools:
        command = "retry" if int(spools[0][0]) in committed else "run"
        listed = ", ".join(path.name for _, path in spools[:3])
        raise OutputExists(
            f"{storage.url}: `turbo-fetch {command}` was interrupted ({listed}); run it again first, to its end"
        )


def _count(storage: Storage) -> Counter[str]:
    counts: Counter[str] = Counter()
    for shard in _reports(storage):
        with opened(storage, names.refresh_report(shard)) as table:
            counts.update(table.read(["drift"]).column("drift").to_pylist())
    return counts


def _reports(storage: Storage) -> set[str]:
    """Return the names of the shards of which there is a report."""
    shards = (names.shard_of_refresh_report(entry.name) for entry in storage.list(names.REFRESH))
    return {shard for shard in shards if shard is not None}
