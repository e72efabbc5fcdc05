"""A dataset in another format, or cut into other shards, without fetching anything.

Every destination shard is made of whole ranges of source shards, independently of the others, and committed like a
shard of a run; one that is there, and was made of the same files, is left alone. Ledger, counts and the record of
what the dataset was made from go along.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch import __version__
from turbo_fetch.arrow.kept_types import kept_values, valid_texts
from turbo_fetch.dataset import attempts, names
from turbo_fetch.dataset.card import write_card
from turbo_fetch.dataset.description import read_job, read_spec, write_job
from turbo_fetch.dataset.formats import check_columns, check_packages
from turbo_fetch.dataset.keys import Unique, numbered
from turbo_fetch.dataset.lease import Claim, behind_claim, claim_on
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.manifest import Manifest, Record
from turbo_fetch.dataset.moves import Moves
from turbo_fetch.dataset.place import open_place, refuse_process_memory
from turbo_fetch.dataset.reader import StoredDataset
from turbo_fetch.duplicates.row_numbers import OF_SAME_DATASET
from turbo_fetch.errors import DatasetError, OutputExists, SpecError
from turbo_fetch.maintenance.targets import Ends, Target, by_bytes, by_rows, row_bytes, same_shards
from turbo_fetch.progress.summary import Summary
from turbo_fetch.runners.step import Progress
from turbo_fetch.runners.steps import run_steps
from turbo_fetch.score.messages import SCORED_BY
from turbo_fetch.shard.commit import Rows, ShardFiles, list_facts, publish_shard
from turbo_fetch.spec import EngineSpec, OutputFormat, OutputSpec
from turbo_fetch.spec.specfile import dump_spec_for_others
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

FROM: Final = "exported_from"
MAX_BYTES: Final = "max_shard_bytes"

OTHER_FORMAT: Final = "another format, or a dataset that was made with another name for it"


@dataclass(frozen=True, slots=True)
class Export:
    """What to make: a format and, if shards are to be other ones than now, how many rows or bytes they have."""

    source: str
    destination: str
    format: OutputFormat
    samples_per_shard: int | None = None
    engine: EngineSpec = field(default_factory=lambda: EngineSpec(workers=1))
    max_shard_bytes: int | None = None

    @property
    def is_cut_anew(self) -> bool:
        """Whether rows come into other shards, and so get other keys."""
        return self.samples_per_shard is not None or self.max_shard_bytes is not None


@dataclass(frozen=True, slots=True)
class _Work:
    """One step, as it is handed to a process."""

    export: Export
    source: StoredDataset
    """Without its shards: those of the target are what it is about."""
    output: OutputSpec
    target: Target
    claim: Claim | None
    beacon: str | None
    """Of the destination where this is done on a cluster, which publishes aside."""


def export(job: Export, progress: Progress, stop: StopRequest) -> Summary:
    """Make the destination and return its account; the same call goes on where an earlier one stopped.

    Raises InputError if there is no source, DatasetError if it is damaged, OutputExists if the destination holds
    something else, MissingExtra, OutputError, or Interrupted.
    """
    started_s = time.monotonic()
    check_packages(job.format)
    source = StoredDataset.open(open_place(job.source))
    storage = open_place(job.destination)
    if storage.url == source.storage.url:
        raise SpecError(f"the destination {storage.url} is the source; expected another place")
    now = source.essentials_of("output")
    refuse_process_memory(storage)
    if source.shards:
        check_columns(job.format, _list_columns(source), source.image, source.scores, OTHER_FORMAT)
    storage.probe(names.PROBE)
    summary = Summary(storage.url)
    with locked(storage, stop=stop):
        targets = list(_targets(job, source, progress, stop))
        output = _output(job, now, targets)
        _begin(job, source, storage, output)
        with Manifest.open(storage) as manifest:
            manifest.take(attempts.recover(storage, manifest.committed))
            wanted = {target.number: target.origin for target in targets}
            good = {record["shard"]: record for record in manifest.records() if _is_good(record, wanted)}
            stale = manifest.committed - good.keys()
            manifest.withdraw(stale)
            for number in stale:
                # Nobody is to mix files of another version of the source with new ones.
                storage.delete(names.stats(names.shard_name(number, output.shard_digits)))
            missing = [target for target in targets if target.number not in good]
            progress.advance(sum(record["rows"] for record in good.values()))
            for record in _made(job, source, storage, output, missing, progress, stop):
                manifest.commit(record)
                summary.run_rows += record["rows"]
                progress.advance(record["rows"])
            for record in manifest.records():
                summary.add_shard(record)
        write_card(storage)
        attempts.discard_attempts(storage)
    summary.wall_s = time.monotonic() - started_s
    return summary


def _targets(job: Export, source: StoredDataset, progress: Progress, stop: StopRequest) -> Iterator[Target]:
    """Yield the shards to make. What rows take in bytes is known once the source has been read."""
    if job.samples_per_shard is not None:
        return by_rows(source.shards, job.samples_per_shard)
    if job.max_shard_bytes is None:
        return same_shards(source.shards)
    bare = source.without_shards()
    steps = ((bare, shard) for shard in source.shards)
    ends: dict[int, Ends] = {}
    for number, found in run_steps(row_bytes, steps, job.engine, progress, stop):
        ends[number] = found
        progress.advance(len(found))
    return by_bytes(source.shards, lambda shard: ends[shard.number], job.max_shard_bytes)


def _made(
    job: Export,
    source: StoredDataset,
    storage: Storage,
    output: OutputSpec,
    targets: Sequence[Target],
    progress: Progress,
    stop: StopRequest,
) -> Iterator[Record]:
    """Yield the commit records of the destination's shards, when each is where it belongs."""
    is_aside = job.engine.kind != "local"
    beacon = attempts.light_beacon(storage) if is_aside else None
    bare, there = source.without_shards(), replace(job, destination=storage.url)
    steps = (_Work(there, bare, output, target, claim_on(storage), beacon) for target in targets)
    moves: Moves[Record] = Moves(storage)
    try:
        for record, attempt in run_steps(_convert, steps, job.engine, progress, stop):
            if attempt is None:
                yield record
            else:
                moves.begin(record, attempt, record)
                yield from moves.arrived()
        yield from moves.rest()
    finally:
        moves.close()


@contextmanager
def _opened(work: _Work) -> Iterator[tuple[Storage, str | None]]:
    """Open where a shard is published to: the destination, or an attempt at it, and its name."""
    place = open_place(work.export.destination)
    if work.beacon is None:
        yield behind_claim(place, work.claim), None
        return
    attempt = attempts.new_attempt(work.beacon)
    with attempts.opened(place, attempt, None) as aside:
        yield aside, attempt


def _convert(work: _Work) -> tuple[Record, str | None]:
    """Make one destination shard; return its commit record, and the attempt that has its files."""
    export, source, output, target = work.export, work.source, work.output, work.target
    started_s = time.time()
    files = ShardFiles(
        target.number, names.shard_name(target.number, output.shard_digits), export.format, source.image
    )
    facts = {FROM: target.origin, **_facts(source, target, export.is_cut_anew)}
    rows = _rows(source, target)
    if export.is_cut_anew:
        rows = _renumbered(rows, target.number, output, source.storage.url)
    with _opened(work) as (storage, attempt):
        return publish_shard(storage, files, rows, (started_s, time.time()), facts), attempt


def _facts(source: StoredDataset, target: Target, is_cut_anew: bool) -> dict[str, Any]:
    """Return what the record of a shard says of its rows, from those of the shards that it is made of."""
    before = [list_facts(source.record(part.shard)) for part in target.parts]
    if not is_cut_anew:
        return {"rows_digest": None, **before[0]}
    scored_by = {facts.get(SCORED_BY) for facts in before}
    # No list has the rows of such a shard, so that its origin stands for them.
    facts = {"rows_digest": target.origin, SCORED_BY: scored_by.pop() if len(scored_by) == 1 else None}
    return {name: value for name, value in facts.items() if value is not None}


def _rows(source: StoredDataset, target: Target) -> Iterator[Rows]:
    """Yield the rows of the target's parts in order, each batch with its ledger."""
    for part in target.parts:
        ledger = source.ledger(part.shard).combine_chunks()
        if ledger.num_rows != part.shard.rows:
            raise DatasetError(
                f"{source.storage.url}/{part.shard.name}: the ledger has {ledger.num_rows} rows; "
                f"expected {part.shard.rows}"
            )
        place = 0
        for batch in source.batches(part.shard):
            start, stop = max(part.start, place), min(part.stop, place + batch.metadata.num_rows)
            if start < stop:
                cut = batch.slice(start - place, stop - start)
                lines = ledger.slice(start, stop - start).to_batches()
                yield Rows(cut._replace(metadata=_kept(cut.metadata)), pa.concat_batches(lines))
            place += batch.metadata.num_rows
        if place != part.shard.rows:
            raise DatasetError(
                f"{source.storage.url}/{part.shard.name}: there are {place} rows; expected {part.shard.rows}"
            )


def _kept(metadata: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows, whose columns may be of any type where img2dataset wrote them, in the types of a dataset."""
    columns = [valid_texts(kept_values(column)) for column in metadata.columns]
    return pa.RecordBatch.from_arrays(columns, names=metadata.schema.names)


def _renumbered(batches: Iterator[Rows], shard: int, output: OutputSpec, source_url: str) -> Iterator[Rows]:
    """Give the rows the keys of their new places: by number, or from their column, as a run would there.

    Keys of originals, which duplicates name, are those of the source, and then say so.
    """
    escaped = source_url.replace("\\", r"\\")
    replacement = rf"duplicate of \1 in {escaped}"
    place, unique = 0, Unique(output.key_prefix)
    for samples, ledger in batches:
        count = ledger.num_rows
        found = numbered(range(place, place + count), shard, output)
        if output.key_column is not None:
            values = samples.metadata.column(output.key_column).cast(pa.string()).to_pylist()
            found = [unique.key(value or "", number) for value, number in zip(values, found, strict=True)]
        named = pa.array(found, pa.string())
        metadata = _told(_with_key(samples.metadata, named), "error_message", replacement)
        yield Rows(
            samples._replace(metadata=metadata), _told(_with_key(ledger, named), "detail", replacement)
        )
        place += count


def _with_key(batch: pa.RecordBatch, named: pa.Array) -> pa.RecordBatch:
    place = batch.schema.get_field_index("key")
    return batch.set_column(place, batch.schema.field(place), named)


def _told(batch: pa.RecordBatch, name: str, replacement: str) -> pa.RecordBatch:
    place = batch.schema.get_field_index(name)
    told = pc.replace_substring_regex(batch.column(name), OF_SAME_DATASET, replacement)
    return batch.set_column(place, batch.schema.field(place), told)


def _output(job: Export, now: Mapping[str, Any], targets: Sequence[Target]) -> OutputSpec:
    """Return what the destination's `[fetch.output]` says, that of the source being `now`.

    Shards of so many bytes have keys with room for the next power of ten of rows.
    """
    per_shard = job.samples_per_shard or now["samples_per_shard"]
    if job.max_shard_bytes is not None:
        per_shard = 10 ** names.index_digits(max(target.rows for target in targets))
    kept = {
        name: now[name] for name in ("shard_digits", "messages", "key_prefix", "key_column") if name in now
    }
    return OutputSpec(
        path=job.destination,
        format=job.format,
        samples_per_shard=per_shard,
        **kept,
    )


def _list_columns(source: StoredDataset) -> pa.Schema:
    """Return the columns that came from the list."""
    schema = source.metadata_schema(source.shards[0])
    return pa.schema(list(schema)[: schema.get_field_index("key")])


def _begin(job: Export, source: StoredDataset, storage: Storage, output: OutputSpec) -> None:
    """Write what the destination is made from; refuse one that holds something else."""
    described = read_job(source.storage)
    assert described is not None
    essentials = described["essentials"]["fetch"]
    shown = output.model_dump(mode="json")
    essentials["output"] = {name: shown[name] for name in essentials["output"]}
    if job.is_cut_anew:
        # Shards no longer follow the files of the list, so that a run cannot go on with them.
        described["lists"] = []
    described |= {"version": __version__, FROM: source.storage.url, MAX_BYTES: job.max_shard_bytes}
    found = read_job(storage)
    if found is None and any(entry.name.startswith("00000") for entry in storage.list()):
        raise OutputExists(f"{storage.url} holds shards of something else; choose another destination")
    identity = (FROM, MAX_BYTES, "essentials")
    if found is not None and any(found.get(name) != described[name] for name in identity):
        raise OutputExists(
            f"{storage.url} holds a dataset that is not an export of {source.storage.url} to {job.format} with these "
            "options; choose another destination"
        )
    write_job(storage, described)
    spec = read_spec(source.storage)
    if spec is not None and spec.fetch is not None:
        fetch = spec.fetch.model_copy(update={"output": output})
        storage.write_bytes(
            names.SPEC, dump_spec_for_others(spec.model_copy(update={"fetch": fetch})).encode()
        )


def _is_good(record: Record, wanted: dict[int, str]) -> bool:
    return bool(record.get(FROM)) and wanted.get(record["shard"]) == record[FROM]
