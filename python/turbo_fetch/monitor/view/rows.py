"""Rows of a dataset, page by page and filtered: one shard in memory at a time, however many there are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from random import Random
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.python_values import python_rows
from turbo_fetch.dataset.reader import StoredDataset, StoredShard
from turbo_fetch.redaction import redact

SEARCH_S: Final = 1.0
"""A search that finds too little gives what it has after so long, and the place to go on from."""
SHARDS_SAMPLED: Final = 6
"""Shards of which a sample is made: each has to be read."""
LEDGER_COLUMNS: Final = (
    "outcome",
    "detail",
    "retryable",
    "http_status",
    "attempts",
    "redirects",
    "final_url",
    "content_type",
    "body_bytes",
    "started",
    "first_byte_ms",
    "total_ms",
)


class Cursor(NamedTuple):
    """A row of a dataset: the index of its shard among the committed ones, and its index there."""

    shard: int
    row: int

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor that `str` wrote; ValueError for anything else."""
        shard, row = text.split(":")
        cursor = cls(int(shard), int(row))
        if min(cursor) < 0:
            raise ValueError(text)
        return cursor

    def __str__(self) -> str:
        return f"{self.shard}:{self.row}"


@dataclass(frozen=True, slots=True)
class Query:
    """Which rows are wanted; an empty one wants all."""

    outcome: str = ""
    """Label of an outcome, `failed` for all but success, or empty."""
    text: str = ""
    """Text that caption or URL contain, in any case."""
    min_side: int = 0
    """Least shorter side of the original, in pixels."""


class Page(NamedTuple):
    """Rows that were found, and where to go on; None at the end of the dataset."""

    rows: list[dict[str, Any]]
    next: Cursor | None


class Count(NamedTuple):
    """Rows that match, and the shard to go on from; None at the end of the dataset."""

    rows: int
    next: int | None


class Rows:
    """Reads the rows of a dataset; not for several threads at once."""

    def __init__(self, dataset: StoredDataset) -> None:
        self._dataset = dataset
        self._loaded: tuple[str, pa.Table] | None = None

    def page(self, query: Query, start: Cursor, limit: int) -> Page:
        """Return up to `limit` rows from `start` on, secrets in URLs masked. Raises DatasetError."""
        found: list[dict[str, Any]] = []
        stop_s = time.monotonic() + SEARCH_S
        row = start.row
        for number in range(start.shard, len(self._dataset.shards)):
            wanted = [index for index in self._matching(number, query) if index >= row]
            chosen = wanted[: limit - len(found)]
            found += self._shown(number, chosen)
            if len(chosen) < len(wanted):
                return Page(found, Cursor(number, chosen[-1] + 1 if chosen else row))
            row = 0
            if len(found) >= limit or time.monotonic() > stop_s:
                return Page(found, Cursor(number + 1, 0) if number + 1 < len(self._dataset.shards) else None)
        return Page(found, None)

    def at(self, cursor: Cursor) -> dict[str, Any] | None:
        """Return one row, None if there is no such row. Raises DatasetError."""
        if cursor.shard >= len(self._dataset.shards) or cursor.row >= self._dataset.shards[cursor.shard].rows:
            return None
        return next(self._shown(cursor.shard, [cursor.row]))

    def sample(self, query: Query, seed: int, limit: int) -> list[dict[str, Any]]:
        """Return up to `limit` rows of shards all over the dataset, in order, the same for the same seed."""
        random = Random(seed)
        shards = range(len(self._dataset.shards))
        chosen = sorted(random.sample(shards, min(SHARDS_SAMPLED, len(shards))))
        found: list[dict[str, Any]] = []
        for done, number in enumerate(chosen):
            rows = self._matching(number, query)
            share = (limit - len(found)) // (len(chosen) - done)
            found += self._shown(number, sorted(random.sample(rows, min(share, len(rows)))))
        return found

    def count(self, query: Query, first: int) -> Count:
        """Count the rows that match, from the shard `first` on, for as long as a search may take."""
        stop_s = time.monotonic() + SEARCH_S
        count = 0
        for number in range(first, len(self._dataset.shards)):
            count += len(self._matching(number, query))
            if time.monotonic() > stop_s and number + 1 < len(self._dataset.shards):
                return Count(count, number + 1)
        return Count(count, None)

    def _matching(self, number: int, query: Query) -> Sequence[int]:
        table = self._table(self._dataset.shards[number])
        matches = _matches(table, query)
        return range(table.num_rows) if matches is None else pc.indices_nonzero(matches).to_pylist()

    def _shown(self, number: int, indices: Sequence[int]) -> Iterator[dict[str, Any]]:
        table = self._table(self._dataset.shards[number])
        values = python_rows(table.take(pa.array(indices, pa.int64())))
        for index, row in zip(indices, values, strict=True):
            url = redact(str(row["url"])) if row.get("url") else None
            yield {"at": str(Cursor(number, index)), **row, "url": url}

    def _table(self, shard: StoredShard) -> pa.Table:
        if self._loaded is None or self._loaded[0] != shard.name:
            self._loaded = (shard.name, _joined(self._dataset, shard))
        return self._loaded[1]


def _joined(dataset: StoredDataset, shard: StoredShard) -> pa.Table:
    """Return the metadata of a shard beside its ledger; a dataset of img2dataset has no ledger."""
    metadata = dataset.metadata(shard)
    if dataset.essentials is None:
        return metadata.append_column("outcome", metadata.column("status"))
    ledger = dataset.ledger(shard)
    for name in LEDGER_COLUMNS:
        if name not in metadata.column_names:
            metadata = metadata.append_column(name, ledger.column(name))
    return metadata


def _matches(table: pa.Table, query: Query) -> pa.Array | None:
    """Return which rows match, None if all do."""
    conditions = []
    if query.outcome == "failed":
        conditions.append(pc.not_equal(table.column("outcome"), "success"))
    elif query.outcome:
        conditions.append(pc.equal(table.column("outcome"), query.outcome))
    if query.text:
        columns = [table.column(name) for name in ("url", "caption") if name in table.column_names]
        found = [
            pc.fill_null(pc.match_substring(column.cast(pa.string()), query.text, ignore_case=True), False)
            for column in columns
        ]
        conditions.append(reduce(pc.or_, found))
    if query.min_side:
        side = pc.min_element_wise(
            table.column("original_width"), table.column("original_height"), skip_nulls=False
        )
        conditions.append(pc.fill_null(pc.greater_equal(side, query.min_side), False))
    if not conditions:
        return None
    matches = reduce(pc.and_, conditions)
    return matches.combine_chunks() if isinstance(matches, pa.ChunkedArray) else matches
