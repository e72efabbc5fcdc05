"""Rows of a dataset, page by page and filtered: one shard in memory at a time, however many there are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.dataset.reader import StoredDataset, StoredShard
from turbo_fetch.redaction import redact

SEARCH_S: Final = 1.0
"""A search that finds too little gives what it has after so long, and the place to go on from."""
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
            table = self._table(self._dataset.shards[number])
            matches = _matches(table, query)
            rows = pc.indices_nonzero(matches).to_pylist() if matches is not None else range(table.num_rows)
            wanted = [index for index in rows if index >= row]
            chosen = wanted[: limit - len(found)]
            for index, values in zip(
                chosen, table.take(pa.array(chosen, pa.int64())).to_pylist(), strict=True
            ):
                shown = redact(str(values["url"])) if values.get("url") else None
                found.append({"at": str(Cursor(number, index)), **values, "url": shown})
            if len(chosen) < len(wanted):
                return Page(found, Cursor(number, chosen[-1] + 1 if chosen else row))
            row = 0
            if len(found) >= limit or time.monotonic() > stop_s:
                return Page(found, Cursor(number + 1, 0) if number + 1 < len(self._dataset.shards) else None)
        return Page(found, None)

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
