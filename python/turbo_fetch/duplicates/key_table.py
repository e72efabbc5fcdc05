"""Keys of rows on disk, of any number: finds for each key its first row, at bounded memory.

Keys are divided by their first byte into 256 files, each of which is sorted in memory on its own: a billion rows
need 25 GB of disk for a while and 100 MB of memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from turbo_fetch.storage.failures import explained

PARTS: Final = 256
HELD_ROWS: Final = 1 << 18
"""Rows held in memory before they are appended to their files."""

Pairs = npt.NDArray[np.uint64]
"""Of shape (n, 2): places of duplicates, and of their originals."""
Places = npt.NDArray[np.uint64]

_RECORD: Final = np.dtype([("high", ">u8"), ("low", ">u8"), ("place", "<u8")])


class KeyTable:
    """Keys of 16 bytes and places; a context manager whose folder goes with it. Calls block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[npt.NDArray[np.void]] = []
        self._rows = 0

    def __enter__(self) -> KeyTable:
        with explained(str(self._folder)):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, keys: bytes, places: npt.NDArray[np.uint64]) -> None:
        """Add rows, whose keys follow each other; OutputError if the disk is full."""
        rows = np.empty(places.size, _RECORD)
        halves = np.frombuffer(keys, ">u8").reshape(-1, 2)
        rows["high"], rows["low"], rows["place"] = halves[:, 0], halves[:, 1], places
        self._held.append(rows)
        self._rows += rows.size
        if self._rows >= HELD_ROWS:
            self._flush()

    def duplicates(self) -> Iterator[Pairs]:
        """Yield the rows whose key an earlier row has, each with the first row of that key."""
        self._flush()
        for path in sorted(self._folder.iterdir()):
            rows = np.fromfile(path, _RECORD)
            rows = rows[np.lexsort((rows["place"], rows["low"], rows["high"]))]
            is_first = np.ones(rows.size, np.bool_)
            is_first[1:] = (rows["high"][1:] != rows["high"][:-1]) | (rows["low"][1:] != rows["low"][:-1])
            first = np.maximum.accumulate(np.where(is_first, np.arange(rows.size), 0))
            later = np.flatnonzero(~is_first)
            yield np.stack([rows["place"][later], rows["place"][first[later]]], axis=1)

    def _flush(self) -> None:
        if not self._rows:
            return
        rows = np.concatenate(self._held)
        part = (rows["high"] >> np.uint64(56)).astype(np.uint16)
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(PARTS + 1))
        with explained(str(self._folder), rows.nbytes):
            for number in np.unique(part).tolist():
                with (self._folder / f"{number:03d}").open("ab") as file:
                    file.write(rows[order[ends[number] : ends[number + 1]]].tobytes())
        self._held, self._rows = [], 0


def by_place(parts: Iterable[Pairs], folder: Path) -> tuple[Places, Places]:
    """Return the places of all duplicates, sorted, and those of their originals.

    They are mapped from files of the folder that have no name any more, and so go with the process. OutputError if the
    disk is full.
    """
    with (
        explained(str(folder)),
        _PairFile(folder / "parts") as unsorted,
        _PairFile(folder / "pairs") as found,
    ):
        ends, seen = [0], [np.empty(0, np.uint64)]
        for pairs in parts:
            in_order = pairs[np.argsort(pairs[:, 0])]
            unsorted.write(in_order)
            ends.append(ends[-1] + len(pairs))
            seen.append(in_order[::PARTS, 0])
        places, originals = unsorted.mapped()
        # Of all parts together some `HELD_ROWS` pairs are between two of these.
        edges = np.sort(np.concatenate(seen))[HELD_ROWS // PARTS :: HELD_ROWS // PARTS]
        bounds = [
            [start, *(start + np.searchsorted(places[start:end], edges)), end]
            for start, end in pairwise(ends)
        ]
        for starts, stops in pairwise(zip(*bounds, strict=True)):
            of = [slice(start, stop) for start, stop in zip(starts, stops, strict=True)]
            some = np.stack(
                [np.concatenate([column[each] for each in of]) for column in (places, originals)], axis=1
            )
            found.write(some[np.argsort(some[:, 0])])
        return found.mapped()


class _PairFile:
    """Pairs on disk, in a file for each of the two columns; a context manager with which the names of these go."""

    def __init__(self, path: Path) -> None:
        self._files = [path.with_suffix(suffix).open("w+b") for suffix in (".places", ".originals")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
            Path(file.name).unlink()

    def write(self, pairs: Pairs) -> None:
        """Add pairs."""
        for file, column in zip(self._files, pairs.T, strict=True):
            file.write(column.tobytes())

    def mapped(self) -> tuple[Places, Places]:
        """Return the two columns of all that was written, which stay when the names are gone."""
        for file in self._files:
            file.flush()
        places, originals = (
            np.memmap(file, np.uint64, "r") if file.tell() else np.empty(0, np.uint64) for file in self._files
        )
        return places, originals
