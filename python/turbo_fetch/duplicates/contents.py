"""Pictures that an earlier row has: found when all shards are there, and taken out of the shards that have them.

Shards are written anew one by one, and one that a kill interrupts is published by the next command; what is decided
does not depend on which were already, since a row that is taken out never was the original of another. So an
interrupted pass simply runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.dataset import attempts, names
from turbo_fetch.dataset.attempts import Replaced
from turbo_fetch.dataset.lease import Claim, behind_claim, claim_on
from turbo_fetch.dataset.manifest import Record
from turbo_fetch.dataset.moves import Moves
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.reader import StoredDataset, StoredShard, open_dataset
from turbo_fetch.dataset.samples import SIDES, Samples
from turbo_fetch.duplicates.alike import alike
from turbo_fetch.duplicates.key_table import KeyTable, Pairs, by_place
from turbo_fetch.duplicates.near import near_duplicates
from turbo_fetch.duplicates.row_numbers import MAX_ROWS, Names, place
from turbo_fetch.errors import DatasetError
from turbo_fetch.outcomes import Outcome
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.shard.commit import Rows, ShardFiles, list_facts, publish_shard, republish_shard
from turbo_fetch.shard.deny_lists import hash_key
from turbo_fetch.spec import DuplicatesSpec, FetchSpec
from turbo_fetch.storage import Storage

Step = TypeVar("Step")
Result = TypeVar("Result")


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


class Steps(Protocol):
    """Does work for each of many steps, all over the engine of a run; see :mod:`turbo_fetch.runners.steps`."""

    @property
    def is_here(self) -> bool:
        """Whether that is on this machine alone."""

    def run(
        self, work: Callable[[Step], Result], steps: Sequence[Step], here: bool = False
    ) -> Iterator[Result]:
        """Yield the results in the order in which they come; with `here`, of work on this machine."""

    def check(self) -> None:
        """Raise Interrupted if asked to stop."""


def drop(
    fetch: FetchSpec, storage: Storage, dataset: CommittedShards, listener: ProgressListener, steps: Steps
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
        pairs = _equal(datasets, fetch.image.digest, storage, steps)
    if "phash" in keys:
        near = _near(datasets, pairs[:, 0], fetch.duplicates.max_distance, steps)
        pairs = _together(pairs, near)
    if fetch.duplicates.embedding_column is not None:
        pairs = _together(pairs, _alike(datasets, pairs[:, 0], fetch.duplicates, listener, steps))
    pairs = pairs[pairs[:, 0] >= np.uint64(place(len(datasets) - 1, 0))]
    found = list(_by_shard(datasets[-1], len(datasets) - 1, pairs))
    # All at once, for each time the manifest is written anew.
    dataset.withdraw(shard.number for shard, _ in found)
    beacon = None if steps.is_here else attempts.light_beacon(storage)
    rewriting = Rewriting(fetch, datasets[-1].without_shards(), claim_on(storage), beacon)
    names = Names(datasets[:-1], fetch.output)
    for record in _rewritten(
        rewriting, storage, [(shard, _details(names, each)) for shard, each in found], steps
    ):
        dataset.commit(record)
        listener.refresh()
    return len(pairs)


def _by_shard(dataset: StoredDataset, number: int, pairs: Pairs) -> Iterator[tuple[StoredShard, Pairs]]:
    """Yield the shards of a dataset that have duplicates, each with its own of `pairs`, which are sorted."""
    for shard in dataset.shards:
        start = place(number, shard.number)
        first, last = np.searchsorted(pairs[:, 0], np.array([start, start + MAX_ROWS], np.uint64))
        if first < last:
            yield shard, pairs[first:last]


def _details(names: Names, pairs: Pairs) -> dict[int, str]:
    """Return of which row each is a duplicate, by the number of the row in its shard."""
    return {duplicate & (MAX_ROWS - 1): names.detail(original) for duplicate, original in pairs.tolist()}


def _equal(datasets: Sequence[StoredDataset], digest: str, storage: Storage, steps: Steps) -> Pairs:
    staging = storage.make_staging()
    with KeyTable(staging / names.CONTENT_KEYS) as table:
        for keys, places in _columns(datasets, partial(_hashes, digest), steps):
            table.add(keys, places)
        return np.stack(by_place(table.duplicates(), staging), axis=1)


def _near(
    datasets: Sequence[StoredDataset], gone: npt.NDArray[np.uint64], max_distance: int, steps: Steps
) -> Pairs:
    hashes, places = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for keys, at in _columns(datasets, _looks, steps):
        stays = ~np.isin(at, gone)
        hashes.append(np.frombuffer(keys, np.uint64)[stays])
        places.append(at[stays])
    return near_duplicates(np.concatenate(hashes), np.concatenate(places), max_distance)


def _alike(
    datasets: Sequence[StoredDataset],
    gone: npt.NDArray[np.uint64],
    duplicates: DuplicatesSpec,
    listener: ProgressListener,
    steps: Steps,
) -> Pairs:
    column = duplicates.embedding_column
    assert column is not None
    total, done = sum(dataset.rows for dataset in datasets), 0

    def looked_at(count: int) -> None:
        nonlocal done
        done += count
        listener.phase(done, total, "images")
        steps.check()

    vectors = (
        (at[stays], np.frombuffer(values, np.float32).reshape(len(at), -1)[stays])
        for values, at in _columns(datasets, partial(_vectors, column), steps)
        if (stays := ~np.isin(at, gone)).any()
    )
    return alike(vectors, duplicates.min_similarity, looked_at)


def _together(pairs: Pairs, more: Pairs) -> Pairs:
    both = np.concatenate([pairs, more])
    return both[np.argsort(both[:, 0])]


Keys = tuple[bytes, npt.NDArray[np.uint64]]
"""Keys of rows that have an image, one after the other, and the places of the rows."""
KeysOf = Callable[[tuple[StoredDataset, StoredShard]], Keys]


@dataclass(frozen=True, slots=True)
class Numbered:
    """Work on a step that has a number, which its result keeps. It can be pickled."""

    work: KeysOf

    def __call__(self, step: tuple[int, tuple[StoredDataset, StoredShard]]) -> tuple[int, Keys]:
        """Return the number and what the work returns."""
        number, of_shard = step
        return number, self.work(of_shard)


def _columns(datasets: Sequence[StoredDataset], work: KeysOf, steps: Steps) -> Iterator[Keys]:
    """Yield the keys of all shards, in order. A dataset to compare with may be one that only this machine sees."""
    for number, dataset in enumerate(datasets):
        bare, is_own = dataset.without_shards(), number == len(datasets) - 1
        each = [(index, (bare, shard)) for index, shard in enumerate(dataset.shards)]
        results = steps.run(Numbered(work), each, here=dataset.storage.is_local and not is_own)
        for keys, places in _in_order(results):
            yield keys, places + np.uint64(place(number, 0))


def _in_order(results: Iterator[tuple[int, Keys]]) -> Iterator[Keys]:
    """Yield what comes under the numbers from 0 on; what comes early waits."""
    early: dict[int, Keys] = {}
    following = 0
    for number, keys in results:
        early[number] = keys
        while following in early:
            yield early.pop(following)
            following += 1


def _hashes(digest: str, step: tuple[StoredDataset, StoredShard]) -> Keys:
    values, places = _column(*step, digest)
    return b"".join(hash_key(value) for value in values.to_pylist()), places


def _looks(step: tuple[StoredDataset, StoredShard]) -> Keys:
    values, places = _column(*step, "phash")
    return np.array([int(value, 16) for value in values.to_pylist()], np.uint64).tobytes(), places


def _vectors(column: str, step: tuple[StoredDataset, StoredShard]) -> Keys:
    values, places = _column(*step, column)
    return values.flatten().to_numpy(zero_copy_only=False).astype(np.float32).tobytes(), places


def _column(dataset: StoredDataset, shard: StoredShard, name: str) -> tuple[pa.Array, npt.NDArray[np.uint64]]:
    """Return the values of a metadata column of all rows of a shard that have an image, with their places."""
    metadata = dataset.metadata(shard)
    if name not in metadata.column_names:
        raise DatasetError(
            f"{dataset.storage.url}: shard {shard.name} has no column {name!r}, by which "
            "fetch.duplicates compares; expected a dataset made with the same fetch.image"
        )
    has_image = pc.and_(pc.equal(metadata["status"], "success"), metadata[name].is_valid())
    rows = np.flatnonzero(has_image.to_numpy())
    values = metadata[name].take(pa.array(rows)).combine_chunks()
    return values, rows.astype(np.uint64) + np.uint64(place(0, shard.number))


@dataclass(frozen=True, slots=True)
class Rewriting:
    """Publishes shards without their duplicates. It can be pickled."""

    fetch: FetchSpec
    stored: StoredDataset
    claim: Claim | None
    beacon: str | None
    """Of the output where this is done on a cluster, which publishes aside."""

    def __call__(self, step: tuple[StoredShard, dict[int, str]]) -> tuple[Record, str | None, Replaced]:
        """Publish a shard; return its new record, the attempt that has its files, and what that replaces."""
        shard, details = step
        output = self.fetch.output
        record = self.stored.record(shard)
        if record is None:
            raise DatasetError(f"{self.stored.storage.url}: shard {shard.name} has no commit record")
        files = ShardFiles(shard.number, shard.name, self.stored.format, self.fetch.image, output.extras)
        rows, facts = _without(self.stored, shard, details), list_facts(record)
        times, replaced = (record["start_time"], record["end_time"]), Replaced.by(record)
        place = open_place(self.stored.storage.url, output.spool)
        if self.beacon is None:
            place = behind_claim(place, self.claim)
            return republish_shard(place, files, rows, times, facts), None, replaced
        attempt = attempts.new_attempt(self.beacon)
        with attempts.opened(place, attempt, output.spool) as aside:
            made = publish_shard(aside, files, rows, times, facts, replaced)
            attempts.note_replaced(aside, made, replaced)
        return made, attempt, replaced


def _rewritten(
    work: Rewriting, storage: Storage, found: Sequence[tuple[StoredShard, dict[int, str]]], steps: Steps
) -> Iterator[Record]:
    """Yield the new records of shards when each is where it belongs."""
    moves: Moves[Record] = Moves(storage)
    try:
        for record, attempt, replaced in steps.run(work, found):
            if attempt is None:
                yield record
            else:
                moves.begin(record, attempt, record, replaced)
                yield from moves.arrived()
        yield from moves.rest()
    finally:
        moves.close()


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
    kept = samples.with_images(lambda images: pc.if_else(gone, pa.scalar(None, pa.binary()), images))
    return kept._replace(
        metadata=pa.RecordBatch.from_arrays([columns[name] for name in names], schema=metadata.schema),
        original_format=pc.if_else(gone, pa.scalar(None, pa.string()), samples.original_format),
    )


def _noted(ledger: pa.RecordBatch, texts: pa.StringArray) -> pa.RecordBatch:
    gone = texts.is_valid()
    columns = {name: ledger.column(name) for name in ledger.schema.names}
    columns["outcome"] = pc.if_else(gone, Outcome.DUPLICATE.label, columns["outcome"])
    columns["retryable"] = pc.if_else(gone, Outcome.DUPLICATE.retryable, columns["retryable"])
    columns["detail"] = pc.coalesce(texts, columns["detail"])
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=ledger.schema)
