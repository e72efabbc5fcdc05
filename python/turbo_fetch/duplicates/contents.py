"""Pictures that an earlier row has: found when all shards are there, and taken out of the shards that have them.

Shards are written anew one by one, and one that a kill interrupts is published by the next command; what is decided
does not depend on which were already, since a row that is taken out never was the original of another. So an
interrupted pass simply runs again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.dataset import names
from turbo_fetch.dataset.manifest import Record
from turbo_fetch.dataset.reader import StoredDataset, StoredShard, open_dataset
from turbo_fetch.dataset.samples import SIDES, Samples
from turbo_fetch.duplicates.alike import alike
from turbo_fetch.duplicates.key_table import KeyTable, Pairs, by_place
from turbo_fetch.duplicates.near import near_duplicates
from turbo_fetch.duplicates.row_numbers import ROW_BITS, Names, place, shard_of
from turbo_fetch.errors import DatasetError, Interrupted
from turbo_fetch.outcomes import Outcome
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.shard.commit import Rows, ShardFiles, list_facts, republish_shard
from turbo_fetch.shard.deny_lists import hash_key
from turbo_fetch.spec import DuplicatesSpec, FetchSpec
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

Kept = dict[str, Any]


class CommittedShards(Protocol):
    """Which shards are committed, and where what is written anew is committed again."""

    @property
    def committed(self) -> frozenset[int]:
        """The ids of all committed shards."""

    def withdraw(self, shards: Iterable[int]) -> None:
        """Take out the records of shards that are to be written anew."""

    def commit(self, record: Record) -> None:
        """Add the record of a shard that was written."""

    def flush(self) -> None:
        """Bring the records to where readers of the dataset find them."""


def drop(
    fetch: FetchSpec,
    storage: Storage,
    dataset: CommittedShards,
    listener: ProgressListener,
    stop: StopRequest,
) -> int:
    """Take the duplicates by content out of the committed shards; return how many there were.

    Raises DatasetError where a dataset cannot be read or lacks the hashes, OutputError, Interrupted.
    """
    keys = fetch.duplicates.by_content
    if not keys or not dataset.committed:
        return 0
    listener.note("looking for duplicate images")
    dataset.flush()
    datasets = [*(open_dataset(url) for url in fetch.duplicates.against), StoredDataset.open(storage)]
    pairs = np.empty((0, 2), np.uint64)
    if "hash" in keys:
        pairs = _equal(datasets, fetch.image.digest, storage, stop)
    if "phash" in keys:
        near = _near(datasets, pairs[:, 0], fetch.duplicates.max_distance, stop)
        pairs = _together(pairs, near)
    if fetch.duplicates.embedding_column is not None:
        pairs = _together(pairs, _alike(datasets, pairs[:, 0], fetch.duplicates, listener, stop))
    pairs = pairs[pairs[:, 0] >= np.uint64(place(len(datasets) - 1, 0))]
    names = Names(datasets[:-1], fetch.output)
    shards = np.array([shard_of(number) for number in pairs[:, 0].tolist()], np.int64)
    # All at once, for each time the manifest is written anew.
    dataset.withdraw(set(shards.tolist()))
    for shard in datasets[-1].shards:
        found = pairs[shards == shard.number] if shards.size else pairs
        if found.size:
            _check(stop)
            details = {
                duplicate & ((1 << ROW_BITS) - 1): names.detail(original)
                for duplicate, original in found.tolist()
            }
            dataset.commit(_rewritten(fetch, storage, datasets[-1], shard, details))
            listener.refresh()
    return len(pairs)


def _equal(datasets: Sequence[StoredDataset], digest: str, storage: Storage, stop: StopRequest) -> Pairs:
    with KeyTable(storage.make_work() / names.CONTENT_KEYS) as table:
        for values, places in _column(datasets, digest, stop):
            table.add([hash_key(value) for value in values.to_pylist()], places)
        return by_place(table.duplicates())


def _near(
    datasets: Sequence[StoredDataset], gone: npt.NDArray[np.uint64], max_distance: int, stop: StopRequest
) -> Pairs:
    hashes, places = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for values, at in _column(datasets, "phash", stop):
        stays = ~np.isin(at, gone)
        hashes.append(np.array([int(value, 16) for value in values.to_pylist()], np.uint64)[stays])
        places.append(at[stays])
    return near_duplicates(np.concatenate(hashes), np.concatenate(places), max_distance)


def _alike(
    datasets: Sequence[StoredDataset],
    gone: npt.NDArray[np.uint64],
    duplicates: DuplicatesSpec,
    listener: ProgressListener,
    stop: StopRequest,
) -> Pairs:
    column = duplicates.embedding_column
    assert column is not None
    total, done = sum(dataset.rows for dataset in datasets), 0

    def looked_at(count: int) -> None:
        nonlocal done
        done += count
        listener.phase(done, total, "images")
        _check(stop)

    vectors = (
        (at[stays], _vectors(values)[stays])
        for values, at in _column(datasets, column, stop)
        if (stays := ~np.isin(at, gone)).any()
    )
    return alike(vectors, duplicates.min_similarity, looked_at)


def _vectors(values: pa.Array) -> npt.NDArray[np.float32]:
    flat = values.flatten().to_numpy(zero_copy_only=False)
    vectors: npt.NDArray[np.float32] = flat.astype(np.float32).reshape(len(values), -1)
    return vectors


def _together(pairs: Pairs, more: Pairs) -> Pairs:
    both = np.concatenate([pairs, more])
    return both[np.argsort(both[:, 0])]


def _column(
    datasets: Sequence[StoredDataset], name: str, stop: StopRequest
) -> Iterator[tuple[pa.Array, npt.NDArray[np.uint64]]]:
    """Yield the values of a metadata column of all rows that have an image, with their places, by shards."""
    for number, dataset in enumerate(datasets):
        for shard in dataset.shards:
            _check(stop)
            metadata = dataset.metadata(shard)
            if name not in metadata.column_names:
                raise DatasetError(
                    f"{dataset.storage.url}: shard {shard.name} has no column {name!r}, by which "
                    "fetch.duplicates compares; expected a dataset made with the same fetch.image"
                )
            rows = np.flatnonzero(
                pc.and_(pc.equal(metadata["status"], "success"), metadata[name].is_valid()).to_numpy()
            )
            values = metadata[name].take(pa.array(rows)).combine_chunks()
            if rows.size:
                yield values, rows.astype(np.uint64) + np.uint64(place(number, shard.number))


def _rewritten(
    fetch: FetchSpec, storage: Storage, stored: StoredDataset, shard: StoredShard, details: dict[int, str]
) -> Kept:
    """Publish a shard without its duplicates; return its new record."""
    record = stored.record(shard)
    if record is None:
        raise DatasetError(f"{storage.url}: shard {shard.name} has no commit record")
    files = ShardFiles(shard.number, shard.name, stored.format, fetch.image, fetch.output.extras)
    times = (record["start_time"], record["end_time"])
    return republish_shard(storage, files, _without(stored, shard, details), times, list_facts(record))


def _without(stored: StoredDataset, shard: StoredShard, details: dict[int, str]) -> Iterator[Rows]:
    ledger, start = stored.ledger(shard), 0
    for samples in stored.batches(shard):
        count = samples.metadata.num_rows
        noted = ledger.slice(start, count).combine_chunks().to_batches()[0]
        texts = pa.array([details.get(start + row) for row in range(count)], pa.string())
        yield Rows(_dropped(samples, texts, stored.image.digest), _noted(noted, texts))
        start += count


def _dropped(samples: Samples, texts: pa.StringArray, digest: str) -> Samples:
    """Return the samples without the images of rows that have a text, which says why."""
    gone = texts.is_valid()
    metadata = samples.metadata
    names = metadata.schema.names
    about_image = [*SIDES, *names[names.index("original_height") + 1 :]]
    columns: dict[str, pa.Array] = {name: metadata.column(name) for name in names}
    for name in {*about_image, digest} & {*names}:
        columns[name] = pc.if_else(gone, pa.scalar(None, columns[name].type), columns[name])
    columns["status"] = pc.if_else(gone, Outcome.DUPLICATE.img2dataset_status, columns["status"])
    columns["error_message"] = pc.coalesce(texts, columns["error_message"])
    return Samples(
        pa.RecordBatch.from_arrays([columns[name] for name in names], schema=metadata.schema),
        pc.if_else(gone, pa.scalar(None, pa.binary()), samples.image),
        pc.if_else(gone, pa.scalar(None, pa.string()), samples.original_format),
    )


def _noted(ledger: pa.RecordBatch, texts: pa.StringArray) -> pa.RecordBatch:
    gone = texts.is_valid()
    columns = {name: ledger.column(name) for name in ledger.schema.names}
    columns["outcome"] = pc.if_else(gone, Outcome.DUPLICATE.label, columns["outcome"])
    columns["retryable"] = pc.if_else(gone, Outcome.DUPLICATE.retryable, columns["retryable"])
    columns["detail"] = pc.coalesce(texts, columns["detail"])
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=ledger.schema)


def _check(stop: StopRequest) -> None:
    if stop:
        raise Interrupted("stopped by a signal")
