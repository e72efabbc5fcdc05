"""Near-duplicates: images whose perceptual hashes differ in few bits, found by bands."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from turbo_fetch.duplicates.key_table import Pairs

BITS: Final = 64
BLOCK: Final = 2048
"""Hashes compared with each other at a time: at most BLOCK² distances are in memory."""

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


def near_duplicates(hashes: Hashes, places: npt.NDArray[np.uint64], max_distance: int) -> Pairs:
    """Return the rows that have an earlier row within `max_distance` bits which is none itself, and the first such.

    `places` tell the order. The result is what going through the rows in that order gives: a row stays unless one
    that stayed before is near. Memory is about 50 bytes per row. The pairs are sorted by place.
    """
    order = np.argsort(places)
    hashes, places = hashes[order], places[order]
    # Rows of equal hash have the same neighbours, so that only the first of each need be compared.
    distinct, firsts, groups = np.unique(hashes, return_index=True, return_inverse=True)
    original = _greedy(firsts, _edges(distinct, max_distance))
    found = original[groups]
    later = np.flatnonzero(found != np.arange(hashes.size))
    return np.stack([places[later], places[found[later]]], axis=1)


def _greedy(firsts: Indices, edges: npt.NDArray[np.int64]) -> Indices:
    """Return for each distinct hash the row that stays for it, its own first one or that of an earlier neighbour."""
    original = firsts.copy()
    earlier, later = firsts[edges].T if edges.size else np.empty((2, 0), np.int64)
    swapped = earlier > later
    ends = np.where(swapped, edges[:, 0], edges[:, 1])
    starts = np.where(swapped, edges[:, 1], edges[:, 0])
    for at in np.lexsort((firsts[starts], firsts[ends])).tolist():
        start, end = starts[at], ends[at]
        if original[end] == firsts[end] and original[start] == firsts[start]:
            original[end] = firsts[start]
    return original


def _edges(distinct: Hashes, max_distance: int) -> npt.NDArray[np.int64]:
    """Return all pairs of distinct hashes within the distance, of shape (n, 2).

    Of max_distance + 1 bands of bits, two such hashes agree in at least one (pigeonhole; Norouzi et al., 2012).
    """
    bands = np.linspace(0, BITS, max_distance + 2).astype(int).tolist()
    found = [np.empty((0, 2), np.int64)]
    for start, end in pairwise(bands):
        band = distinct >> np.uint64(start) & np.uint64((1 << end - start) - 1)
        order = np.argsort(band, kind="stable")
        cuts = np.flatnonzero(np.diff(band[order])) + 1
        for run in np.split(order, cuts):
            if run.size > 1:
                found.extend(_near_in(distinct, run, max_distance))
    return np.unique(np.concatenate(found), axis=0)


def _near_in(distinct: Hashes, run: Indices, max_distance: int) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, run.size, BLOCK):
        left = run[start : start + BLOCK]
        for other in range(start, run.size, BLOCK):
            right = run[other : other + BLOCK]
            away = np.bitwise_count(distinct[left][:, None] ^ distinct[right][None, :])
            rows, columns = np.nonzero(away <= max_distance)
            pairs = np.stack([left[rows], right[columns]], axis=1)
            yield np.sort(pairs[pairs[:, 0] < pairs[:, 1]] if start == other else pairs, axis=1)
