"""Rows whose address an earlier row has: found before anything is requested, in one pass over the list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from turbo_fetch.dataset import names
from turbo_fetch.dataset.reader import StoredDataset, open_dataset
from turbo_fetch.duplicates.captions import LaterCaptions
from turbo_fetch.duplicates.key_table import KeyTable, Places, by_place
from turbo_fetch.duplicates.row_numbers import MAX_ROWS, Names, place
from turbo_fetch.errors import Interrupted
from turbo_fetch.plan.sharder import Plan, Shard
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.shard.deny_lists import text_key
from turbo_fetch.sources.identity import Identities
from turbo_fetch.spec import FetchSpec
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage


@dataclass(frozen=True, slots=True)
class KnownUrls:
    """The rows of a list that need not be requested, sorted by place, of the dataset numbered `dataset`."""

    places: Places
    originals: Places
    dataset: int
    names: Names
    captions: LaterCaptions | None = None
    """Those of the duplicates, if they are asked for."""

    def places_of(self, shard: Shard) -> tuple[Places, Places]:
        """Return the places of the rows of a shard that are duplicates, and of their originals."""
        start = place(self.dataset, shard.id)
        first, last = np.searchsorted(self.places, np.array([start, start + shard.count], np.uint64))
        return self.places[first:last], self.originals[first:last]

    def marked(self, shard: Shard) -> Shard:
        """Return a shard with its duplicates, and the captions that later ones have for its rows."""
        start = place(self.dataset, shard.id)
        places, of = self.places_of(shard)
        rows = (places - np.uint64(start)).tolist()
        # Most rows that are duplicates are of few others.
        originals, which = np.unique(of, return_inverse=True)
        details = [self.names.detail(original) for original in originals.tolist()]
        duplicates = {row: details[number] for row, number in zip(rows, which.tolist(), strict=True)}
        captions = None if self.captions is None else self.captions.of(start, start + shard.count)
        return replace(shard, duplicates=duplicates, captions=captions)


def find(
    fetch: FetchSpec,
    plan: Plan,
    storage: Storage,
    first_shard: int,
    listener: ProgressListener,
    stop: StopRequest,
) -> KnownUrls | None:
    """Return the rows of the list whose address is known, None if that is not asked for; the list is read once.

    What the dataset has from lists before this one counts as known. Raises InputError for a list, DatasetError for
    another dataset that cannot be read, Interrupted.
    """
    if "url" not in fetch.duplicates.by:
        return None
    listener.note("looking for duplicate URLs")
    against = [open_dataset(url) for url in fetch.duplicates.against]
    own, identities = len(against), Identities(fetch)
    staging = storage.make_staging()
    with KeyTable(staging / names.URL_KEYS) as table:
        for number, dataset in enumerate(against):
            _add_dataset(table, identities, number, dataset, stop)
        if first_shard:
            _add_dataset(table, identities, own, StoredDataset.open(storage), stop, before=first_shard)
        for shard in plan.again().shards(first_shard):
            _add(table, identities.of(shard.load()), place(own, shard.id))
            _check(stop)
        start = place(own, first_shard)
        places, originals = by_place((pairs[pairs[:, 0] >= start] for pairs in table.duplicates()), staging)
    known = KnownUrls(places, originals, own, Names(against, fetch.output))
    if fetch.duplicates.captions == "first":
        return known
    later = LaterCaptions(staging / names.LATER_CAPTIONS)
    for shard in plan.again().shards(first_shard):
        _add_captions(later, known.places_of(shard), shard, start)
        _check(stop)
    later.finish()
    return replace(known, captions=later)


def marked(shards: Iterator[Shard], known: KnownUrls | None) -> Iterator[Shard]:
    """Yield the shards with their duplicates."""
    for shard in shards:
        yield shard if known is None else known.marked(shard)


def _add_captions(later: LaterCaptions, of: tuple[Places, Places], shard: Shard, first: int) -> None:
    """Keep the captions of duplicates whose original is of this list, from the place `first` on: others are made."""
    places, originals = of
    is_here = originals >= np.uint64(first)
    places, originals = places[is_here], originals[is_here]
    if not places.size:
        return
    rows = (places & np.uint64(MAX_ROWS - 1)).astype(np.int64)
    captions = shard.load().column("caption").take(pa.array(rows)).to_pylist()
    later.add(originals.tolist(), places.tolist(), captions)


def _add_dataset(
    table: KeyTable,
    identities: Identities,
    number: int,
    dataset: StoredDataset,
    stop: StopRequest,
    before: int | None = None,
) -> None:
    for shard in dataset.shards:
        if before is None or shard.number < before:
            rows = pa.table({"url": dataset.urls(shard)})
            _add(table, identities.of(rows), place(number, shard.number))
            _check(stop)


def _add(table: KeyTable, found: Sequence[str | None], first: int) -> None:
    rows = [row for row, identity in enumerate(found) if identity is not None]
    keys = [text_key(identity) for identity in found if identity is not None]
    if keys:
        table.add(b"".join(keys), np.array(rows, np.uint64) + np.uint64(first))


def _check(stop: StopRequest) -> None:
    if stop:
        raise Interrupted("stopped by a signal")
