"""A finished shard as the engine knows shards: its rows, and what became of each, from its published files."""

from __future__ import annotations

import secrets
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.schemas import EXPECTED_HASH, IMAGES, named, results_schema
from turbo_fetch.arrow.score_types import spooled_schema
from turbo_fetch.dataset import names
from turbo_fetch.dataset.attempts import Replaced
from turbo_fetch.dataset.leftovers import discard_spools_of_runs
from turbo_fetch.dataset.manifest import Record
from turbo_fetch.dataset.reader import StoredDataset, StoredShard
from turbo_fetch.errors import DatasetError
from turbo_fetch.maintenance.source_rows import ExistingShard
from turbo_fetch.outcomes import BY_LABEL, Outcome
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.shard.commit import commit_shard
from turbo_fetch.shard.complete_shard import CompleteShard
from turbo_fetch.spec import FetchSpec, ScoreSpec
from turbo_fetch.spool.spool import Spool, spool_identity
from turbo_fetch.storage import Storage
from turbo_fetch.storage.disk import sync_one, unfinished

OF_VERSION: Final = "of_version"
"""Among the facts of a spool: what stands for the commit record of the shard from which it was begun."""
_LABELS: Final = pa.array(list(BY_LABEL), pa.string())
_NUMBERS: Final = pa.array([outcome.number for outcome in BY_LABEL.values()], pa.uint8())


@dataclass(frozen=True, slots=True)
class StoredRows:
    """The rows of a finished shard, by reference to its dataset. It can be pickled."""

    dataset: StoredDataset
    shard: StoredShard
    hash_kind: str | None
    """The kind of the hashes that the list demands, if it does."""

    @property
    def local_path(self) -> Path | None:
        """See Rows: all machines see the dataset."""
        return None

    def load(self, notes: ListNotes) -> pa.Table:
        """Return the columns that came from the list, under the names that the engine knows."""
        rows = list_columns(self.dataset.metadata(self.shard))
        demanded = {kind: name for name, kind in EXPECTED_HASH.items() if kind == self.hash_kind}
        return rows.rename_columns([demanded.get(name, name) for name in rows.schema.names])


class StoredWork(ExistingShard, Protocol):
    """What is done with a finished shard."""

    @property
    def shard(self) -> StoredShard:
        """Which it is."""


@dataclass(frozen=True, slots=True)
class UnpublishedShard:
    """An existing shard that is not published, or not whole, though its spool has all that is to be kept of it."""

    shard: StoredShard
    facts: Mapping[str, Any]
    """What its record says of the list."""
    scores: ClassVar[bool] = True
    has_spool: ClassVar[bool] = True

    @property
    def rows_digest(self) -> str:
        """See ExistingShard."""
        return str(self.facts["rows_digest"])

    @property
    def replaced(self) -> Replaced | None:
        """See ShardWork: whatever is there may be half of a shard."""
        return None

    def prepare(self, shard: int, source: pa.RecordBatch, fetch: FetchSpec, work: Path) -> tuple[Path, str]:
        """See ShardWork."""
        return work / names.spool(self.shard.name), self.rows_digest

    def headers(self) -> Mapping[int, Mapping[str, str]]:
        """See ShardWork."""
        return {}

    def commit(self, fetch: FetchSpec, storage: Storage, complete: CompleteShard) -> Record:
        """See ShardWork."""
        return commit_shard(fetch, storage, replace(complete, facts=dict(self.facts)), self.replaced)


def unpublished_shards(
    storage: Storage, committed: Container[int], but: Container[int] = ()
) -> Iterator[UnpublishedShard]:
    """Yield the shards, but for some, that a command was publishing when it was killed: their spools tell.

    To publish one again that is committed changes nothing, if its spool is whole; one that is not is left to `retry`.
    Spools of shards that have never been published are left to `run`.
    """
    discard_spools_of_runs(storage, committed)
    for name, path in names.spools(storage.work):
        identity = spool_identity(path)
        if identity is None or int(name) in but or not storage.exists(names.metadata(name)):
            continue
        shard = StoredShard(int(name), name, identity["rows"])
        digest = identity["rows_digest"]
        if shard.number not in committed or _is_whole(path, shard, digest):
            facts = {name: value for name, value in identity.get("facts", {}).items() if name != OF_VERSION}
            yield UnpublishedShard(shard, {**facts, "rows_digest": digest})


def _is_whole(path: Path, shard: StoredShard, rows_digest: str) -> bool:
    """Return whether a spool has all rows of its shard."""
    spool = Spool.open(path, shard.number, shard.rows, rows_digest, is_there=True)
    try:
        return bool(spool.done.all())
    finally:
        spool.close()


def list_columns(metadata: pa.Table) -> pa.Table:
    """Return the columns of a shard's metadata that came from the list: those before the key."""
    return metadata.select(metadata.schema.names[: metadata.schema.get_field_index("key")])


def stored_results(dataset: StoredDataset, shard: StoredShard) -> Iterator[pa.RecordBatch]:
    """Yield what became of the rows of a shard, in order, as they stood in its spool.

    Formats of originals are those of the stored images. Raises DatasetError if the files are damaged or do not
    agree.
    """
    ledger = dataset.ledger(shard).combine_chunks()
    digest, schema = dataset.image.digest, results_schema(dataset.more_sizes)
    place = 0
    for samples in dataset.batches(shard):
        count = samples.metadata.num_rows
        lines = ledger.slice(place, count)
        if lines.column("key").to_pylist() != samples.metadata.column("key").to_pylist():
            raise DatasetError(
                f"{dataset.storage.url}/{shard.name}: ledger and metadata have different rows; check the dataset "
                "with turbo-fetch verify"
            )
        columns: dict[str, pa.Array] = {
            "row": pa.array(np.arange(place, place + count, dtype=np.uint32)),
            "outcome": _outcomes(lines.column("outcome").combine_chunks()),
            **{named(IMAGES, size): images for size, images in samples.images.items()},
            "original_format": samples.original_format,
        }
        known = {name: samples.metadata.column(name) for name in samples.metadata.schema.names}
        if digest in known:
            columns["digest"] = known[digest]
        known |= {name: lines.column(name).combine_chunks() for name in lines.schema.names}
        yield pa.RecordBatch.from_arrays(
            [_column(columns.get(field.name, known.get(field.name)), field, count) for field in schema],
            schema=schema,
        )
        place += count
    if place != shard.rows:
        raise DatasetError(
            f"{dataset.storage.url}/{shard.name}: there are {place} rows; expected {shard.rows}"
        )


def begin_spool(
    path: Path,
    shard: StoredShard,
    facts: Mapping[str, Any],
    batches: Iterable[pa.RecordBatch],
    scores: Iterable[pa.RecordBatch] = (),
) -> None:
    """Have a spool at `path` that was begun with the batches and scores from this version of the shard, unless it is
    there.

    One of another version may lie on a machine of a cluster, which did not hear of what became of the shard since.
    """
    begun = ((spool_identity(path) if path.exists() else None) or {}).get("facts")
    if begun is None or begun.get(OF_VERSION, shard.record) != shard.record:
        written_spool(path, shard, {**facts, OF_VERSION: shard.record}, batches, scores).close()


def stored_scores(
    dataset: StoredDataset, shard: StoredShard, score: ScoreSpec | None
) -> Iterator[pa.RecordBatch]:
    """Yield the scores of the rows of a shard that have some, as they stood in its spool."""
    if score is None:
        return
    scored = pa.array([Outcome.SUCCESS.label, Outcome.FILTERED.label])
    if not set(score.columns) <= set(dataset.metadata_schema(shard).names):
        # Of before `score`, which was interrupted.
        return
    rows = np.flatnonzero(pc.is_in(dataset.ledger(shard).column("outcome"), scored).to_numpy())
    found = dataset.metadata(shard).select(list(score.columns)).take(pa.array(rows))
    columns = [pa.array(rows, pa.uint32()), pa.nulls(rows.size, pa.string()), *found.columns]
    yield from pa.table(columns, schema=spooled_schema(score.columns)).combine_chunks().to_batches()


def written_spool(
    path: Path,
    shard: StoredShard,
    facts: Mapping[str, Any],
    batches: Iterable[pa.RecordBatch],
    scores: Iterable[pa.RecordBatch] = (),
) -> Spool:
    """Return a spool that holds the batches, at `path` whole or not at all; `facts` are those of the shard's record.

    `scores`, of rows that are in the batches, are asked for after them. Who works on with what is returned does not
    mind what becomes of the file.
    """
    begun = unfinished(path, secrets.token_hex(8))
    spool = Spool.open(begun, shard.number, shard.rows, facts["rows_digest"], facts)
    try:
        for batch in batches:
            if batch.num_rows:
                spool.append(batch)
        for batch in scores:
            spool.append_scores(batch)
        sync_one(begun)
        begun.replace(path)
        # What follows may take away what the shard has now.
        sync_one(path.parent)
    except BaseException:
        spool.close()
        raise
    return spool


def _outcomes(labels: pa.Array) -> pa.Array:
    return _NUMBERS.take(pc.index_in(labels, _LABELS))


def _column(values: pa.Array | None, field: pa.Field, count: int) -> pa.Array:
    return pa.nulls(count, field.type) if values is None else values.cast(field.type)
