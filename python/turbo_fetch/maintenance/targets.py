"""Which rows of a dataset each shard of its export has: the same ones, or all in order, cut anew by rows or bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from turbo_fetch.dataset.formats.members import json_members, text_members
from turbo_fetch.dataset.formats.webdataset import END_BYTES, entry_bytes
from turbo_fetch.dataset.reader import StoredDataset, StoredShard
from turbo_fetch.dataset.samples import Samples

KEY_GROWTH: Final = 16
"""Bytes by which a new key may be longer than the old one: it stands in the metadata of its sample."""

Ends = npt.NDArray[np.int64]
"""For each row of a shard, what it and all before it there come to."""


@dataclass(frozen=True, slots=True)
class Part:
    """The rows `start` to `stop` of a source shard."""

    shard: StoredShard
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Target:
    """A destination shard: its number and what it is made of."""

    number: int
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(part.stop - part.start for part in self.parts)

    @property
    def origin(self) -> str:
        """What stands for the contents of the source files that it is made of."""
        parts = [f"{part.shard.digest} {part.start} {part.stop}" for part in self.parts]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def same_shards(shards: Iterable[StoredShard]) -> Iterator[Target]:
    """Yield the shards as they are."""
    for shard in shards:
        yield Target(shard.number, (Part(shard, 0, shard.rows),))


def cut(shards: Iterable[StoredShard], ends_of: Callable[[StoredShard], Ends], most: int) -> Iterator[Target]:
    """Yield all rows in order, numbered from 0, as many to a shard as come to `most`, and at least one."""
    parts: list[Part] = []
    number, room = 0, most
    for shard in shards:
        ends, start = ends_of(shard), 0
        while start < shard.rows:
            before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, before + room, side="right"))
            if stop <= start and parts:
                yield Target(number, tuple(parts))
                parts, number, room = [], number + 1, most
                continue
            stop = max(stop, start + 1)
            parts.append(Part(shard, start, stop))
            room -= int(ends[stop - 1]) - before
            start = stop
    if parts:
        yield Target(number, tuple(parts))


def by_rows(shards: Iterable[StoredShard], rows_per_shard: int) -> Iterator[Target]:
    """Yield shards of so many rows."""
    return cut(shards, lambda shard: np.arange(1, shard.rows + 1), rows_per_shard)


def by_bytes(
    shards: Iterable[StoredShard], ends_of: Callable[[StoredShard], Ends], most_bytes: int
) -> Iterator[Target]:
    """Yield shards whose file has so many bytes at most, unless a single row is larger; see `row_bytes`."""
    return cut(shards, ends_of, max(1, most_bytes - END_BYTES))


def row_bytes(step: tuple[StoredDataset, StoredShard]) -> tuple[int, Ends]:
    """Return the number of a shard and the bytes of its rows, summed: those of a tar, of which no format needs more.

    Rows without an image count as what their metadata take, for the formats that have these beside the images.
    Raises DatasetError.
    """
    dataset, shard = step
    sizes = [_batch_bytes(samples) for samples in dataset.batches(shard)]
    return shard.number, np.cumsum(np.concatenate(sizes), dtype=np.int64)


def _batch_bytes(samples: Samples) -> Ends:
    described = np.array([len(text) + KEY_GROWTH for text in json_members(samples.metadata)], np.int64)
    texts = text_members(samples.metadata)
    whole = entry_bytes(described)
    for images in samples.images.values():
        sizes = pc.fill_null(pc.binary_length(images), 0).to_numpy(zero_copy_only=False)
        whole += entry_bytes(sizes.astype(np.int64))
    if texts is not None:
        whole += entry_bytes(np.array([len(text) for text in texts], np.int64))
    return np.where(samples.image.is_valid().to_numpy(zero_copy_only=False), whole, described)
