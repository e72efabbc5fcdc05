"""The rows of two datasets beside each other: which belong together, and in what they differ."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from turbo_fetch.dataset.reader import StoredDataset
from turbo_fetch.monitor.view.rows import Cursor
from turbo_fetch.plan.urls import parse_urls

By = Literal["url", "key"]
Show = Literal["all", "outcome", "size", "left", "right"]
BYS: Final = get_args(By)
SHOWS: Final = get_args(Show)
SHOWN_CHANGES: Final = 20
NONE: Final = -1
_ODD: Final = np.uint64(0x9E3779B97F4A7C15)
"""Sets rows of one name apart, each in its turn."""

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared of the rows of a dataset, all of them in order: under 20 bytes each in memory."""

    names: npt.NDArray[np.uint64]
    """Of each row, a hash of what it is called."""
    outcomes: npt.NDArray[np.int16]
    labels: Sequence[str]
    """What the outcomes mean."""
    sizes: Numbers
    """Width and height of the image, as one number; 0 without an image."""
    starts: Numbers
    """The row with which each shard begins."""

    @classmethod
    def of(cls, dataset: StoredDataset, by: By, has_ledgers: bool) -> Side:
        """Read the rows; outcomes are img2dataset's statuses unless both datasets have ledgers."""
        names, outcomes, sizes = [], [], []
        labels: dict[str, int] = {}
        starts = np.cumsum([0, *(shard.rows for shard in dataset.shards)])
        for shard in dataset.shards:
            table = dataset.metadata(shard, ["key", "url", "status", "width", "height"])
            found = dataset.ledger(shard).column("outcome") if has_ledgers else table.column("status")
            called = table.column(by).to_pylist()
            names.append(_hashed(_normalised(called) if by == "url" else called))
            outcomes.append([labels.setdefault(label, len(labels)) for label in found.to_pylist()])
            width, height = (_numbers(table.column(side)) for side in ("width", "height"))
            sizes.append(width << 32 | height)
        return cls(
            np.concatenate(names),
            np.concatenate(outcomes).astype(np.int16),
            [*labels],
            np.concatenate(sizes),
            starts,
        )

    def cursor(self, row: int) -> Cursor:
        """Return where a row is, by its number in the dataset."""
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return Cursor(shard, row - int(self.starts[shard]))


class Pair(NamedTuple):
    """A row of the left dataset and one of the right, where there are such."""

    left: Cursor | None
    right: Cursor | None


class Pairs:
    """All rows of two datasets, in the order of the left one, then those that the right one alone has.

    Of several rows of one name, the first belongs to the first, the second to the second, and so on.
    """

    def __init__(self, left: StoredDataset, right: StoredDataset, by: By) -> None:
        has_ledgers = left.essentials is not None and right.essentials is not None
        self._left, self._right = (Side.of(dataset, by, has_ledgers) for dataset in (left, right))
        partners = _partners(self._left.names, self._right.names)
        alone = np.setdiff1d(np.arange(len(self._right.names)), partners)
        self._of_left = np.concatenate([np.arange(len(partners)), np.full(len(alone), NONE)])
        self._of_right = np.concatenate([partners, alone])
        both = (self._of_left != NONE) & (self._of_right != NONE)
        self._chosen: dict[Show, Numbers] = {
            "all": np.arange(len(both)),
            "outcome": np.flatnonzero(both & self._differ(self._words)),
            "size": np.flatnonzero(both & self._have_images() & self._differ(lambda side: side.sizes)),
            "left": np.flatnonzero(self._of_right == NONE),
            "right": np.flatnonzero(self._of_left == NONE),
        }

    @property
    def summary(self) -> dict[str, Any]:
        """How many pairs there are of each kind, and which outcomes became which, most frequent first."""
        chosen = self._chosen["outcome"]
        left, right = self._words(self._left), self._words(self._right)
        changes = Counter(
            zip(left[self._of_left[chosen]].tolist(), right[self._of_right[chosen]].tolist(), strict=True)
        )
        return {
            "counts": {show: len(rows) for show, rows in self._chosen.items()},
            "changes": [[*change, count] for change, count in changes.most_common(SHOWN_CHANGES)],
        }

    def page(self, show: Show, start: int, limit: int) -> tuple[Sequence[Pair], int | None]:
        """Return the pairs of a kind from the `start`-th on, and where to go on; None at the end."""
        chosen = self._chosen[show]
        stop = start + limit
        return [*self._pairs(chosen[start:stop].tolist())], stop if stop < len(chosen) else None

    def _pairs(self, numbers: Sequence[int]) -> Iterator[Pair]:
        for number in numbers:
            left, right = int(self._of_left[number]), int(self._of_right[number])
            yield Pair(
                None if left == NONE else self._left.cursor(left),
                None if right == NONE else self._right.cursor(right),
            )

    def _differ(self, values: Callable[[Side], npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
        """Return which pairs differ in a value; what is said of those with one row has no meaning."""
        left, right = values(self._left)[self._of_left], values(self._right)[self._of_right]
        found: npt.NDArray[np.bool_] = left != right
        return found

    def _have_images(self) -> npt.NDArray[np.bool_]:
        found: npt.NDArray[np.bool_] = np.logical_and(
            self._left.sizes[self._of_left], self._right.sizes[self._of_right]
        )
        return found

    @staticmethod
    def _words(side: Side) -> npt.NDArray[np.object_]:
        return np.array(side.labels, np.object_)[side.outcomes]


def _partners(left: npt.NDArray[np.uint64], right: npt.NDArray[np.uint64]) -> Numbers:
    """Return for each left row the right row of the same name and turn, or NONE."""
    apart = [names + _turns(names) * _ODD for names in (left, right)]
    _, together = np.unique(np.concatenate(apart), return_inverse=True)
    mine, others = np.split(together, [len(left)])
    where = np.full(int(together.max(initial=-1)) + 1, NONE)
    where[others] = np.arange(len(others))
    found: Numbers = where[mine]
    return found


def _turns(names: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return how many rows of the same name come before each."""
    order = np.argsort(names, kind="stable")
    ordered = names[order]
    is_first = np.ones(len(names), np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    places = np.arange(len(names))
    turns = np.empty(len(names), np.uint64)
    turns[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return turns


def _normalised(urls: Sequence[str | None]) -> list[str | None]:
    """Return URLs as they would be requested; one that is none stays as it is."""
    parsed = parse_urls(pa.array(urls, pa.string())).normalised
    return [known or url for known, url in zip(parsed, urls, strict=True)]


def _hashed(texts: Sequence[str | None]) -> npt.NDArray[np.uint64]:
    """Return 64 bits for each text: of ten million, two share them once in 400,000 times."""
    digests = (hashlib.blake2b((text or "").encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), np.uint64)


def _numbers(sides: pa.ChunkedArray) -> Numbers:
    return np.asarray(sides.fill_null(0), np.int64)
