"""Near-duplicates by embedding: images whose vectors have at least some cosine similarity; all pairs are compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

from turbo_fetch.duplicates.key_table import Pairs

BLOCK: Final = 2048
"""Images compared with as many others at a time: 17 MB of similarities."""

Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.uint64]
NONE: Final = np.iinfo(np.int64).max


def alike(
    batches: Iterable[tuple[Places, Vectors]], least: float, looked_at: Callable[[int], None] = lambda _: None
) -> Pairs:
    """Return the rows that have an earlier row at least so similar which is none itself, and the first such.

    The batches, places and their vectors of shape (rows, length), come in the order of the places. A vector that has no
    direction is like none. Memory is that of the vectors of the rows that stay, in 32 bits; time grows with the rows
    times those. `looked_at` is told how many rows are done.
    """
    kept: list[Vectors] = []
    kept_places: list[Places] = []
    found = [np.empty((0, 2), np.uint64)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for places, vectors in _blocks(batches):
            originals = _first_of_kept(vectors, kept, least, threads)
            firsts = np.concatenate([*kept_places, np.empty(0, np.uint64)])
            pairs, stays = _within(places, vectors, originals, firsts, least)
            found.append(pairs)
            kept.append(vectors[stays])
            kept_places.append(places[stays])
            looked_at(len(places))
    return np.concatenate(found)


def _blocks(batches: Iterable[tuple[Places, Vectors]]) -> Iterator[tuple[Places, Vectors]]:
    """Yield unit vectors that have a direction, in blocks, however small the batches are."""
    held: list[tuple[Places, Vectors]] = []
    for places, vectors in batches:
        lengths = np.linalg.norm(vectors, axis=1)
        usable = np.isfinite(lengths) & (lengths > 0)
        held.append((places[usable], vectors[usable] / lengths[usable, None]))
        if sum(len(each) for each, _ in held) >= BLOCK:
            *full, last = _cut(held)
            yield from full
            held = [last]
    yield from _cut(held)


def _cut(held: list[tuple[Places, Vectors]]) -> Iterator[tuple[Places, Vectors]]:
    if held:
        places, vectors = (np.concatenate(each) for each in zip(*held, strict=True))
        for start in range(0, len(places), BLOCK):
            yield places[start : start + BLOCK], vectors[start : start + BLOCK]


def _first_of_kept(
    vectors: Vectors, kept: list[Vectors], least: float, threads: ThreadPoolExecutor
) -> npt.NDArray[np.int64]:
    """Return for each vector the number of the first one that stayed and is like it, `NONE` if there is none."""
    starts = np.cumsum([0, *(len(block) for block in kept)])

    def first_in(number: int) -> npt.NDArray[np.int64]:
        near = vectors @ kept[number].T >= least
        return np.where(near.any(axis=1), near.argmax(axis=1) + starts[number], NONE)

    numbers = [number for number, block in enumerate(kept) if len(block)]
    first = np.full(len(vectors), NONE, np.int64)
    for each in threads.map(first_in, numbers):
        first = np.minimum(first, each)
    return first


def _within(
    places: Places, vectors: Vectors, originals: npt.NDArray[np.int64], firsts: Places, least: float
) -> tuple[Pairs, npt.NDArray[np.bool_]]:
    """Return the duplicates of a block with their originals, before it or in it, and which rows of it stay."""
    stays = originals == NONE
    pairs = {row: firsts[originals[row]] for row in np.flatnonzero(~stays).tolist()}
    near = vectors @ vectors.T >= least
    for row in np.flatnonzero(stays).tolist():
        earlier = near[row, :row] & stays[:row]
        if earlier.any():
            stays[row] = False
            pairs[row] = places[int(earlier.argmax())]
    rows = sorted(pairs)
    both = [(int(places[row]), int(pairs[row])) for row in rows]
    return np.array(both, np.uint64).reshape(-1, 2), stays
