"""Rows of a Parquet file by their numbers.

pyarrow reads row groups from their start. The shards of a list are read one after the other, so each process keeps the
file of the last range open where that ended: a row group is read once for all its shards, not once for each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from threading import Lock

import pyarrow as pa

from turbo_fetch.errors import InputError
from turbo_fetch.plan.columnar_lists import open_parquet, parquet_batches
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.expansion import HeldRows
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.lists import ListFile

_lock = Lock()
_last: _OpenParquet | None = None


def read_parquet_range(
    source: ListFile, rows: range, columns: Columns, schema: pa.Schema, notes: ListNotes
) -> pa.Table:
    """Return some rows of a Parquet file; InputError if it has them no more."""
    with _lock:
        file = _opened(source, columns)
        held = HeldRows(source.url)
        missing = len(rows)
        try:
            columns.locate(file.names, source.url)
            for part in file.read(rows):
                notes.rows_before = rows.stop - missing
                held.add(columns.rows(part, schema, notes))
                missing -= part.num_rows
        except BaseException:
            file.close()
            raise
        _keep(file)
    if missing:
        raise InputError(
            f"{source.url}: rows {rows.start:,} to {rows.stop:,} are incomplete; has the file changed?"
        )
    return held.take(schema)


def _opened(source: ListFile, columns: Columns) -> _OpenParquet:
    """Return the file, open: as it was kept, if it was the last one, else from its start."""
    global _last
    last, _last = _last, None
    if last is not None:
        # What is open of a file that has changed since would be read as if it had not.
        if (last.source, last.columns) == (source, columns.wanted) and last.is_as_opened:
            return last
        last.close()
    return _OpenParquet(source, columns.wanted)


def _keep(file: _OpenParquet) -> None:
    """Keep a file for the next range, if there can be one after the last."""
    global _last
    if file.is_at_end:
        file.close()
    else:
        _last = file


class _OpenParquet:
    """Some columns of a Parquet file, and the row up to which they have been read."""

    def __init__(self, source: ListFile, columns: tuple[str, ...]) -> None:
        self.source, self.columns = source, columns
        # Not that of the source, which another machine may have found.
        self._state = source.current_state()
        self._parquet = open_parquet(source)
        metadata = self._parquet.metadata
        self._ends: list[int] = list(
            accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        )
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rows: int = metadata.num_rows
        self._row: int = self._rows
        self._read: pa.RecordBatch | None = None
        """What was read from `_row` on and nobody has asked for yet."""

    @property
    def names(self) -> list[str]:
        """Names of all columns of the file."""
        names: list[str] = self._parquet.schema_arrow.names
        return names

    @property
    def is_at_end(self) -> bool:
        """Whether nothing comes after the row up to which it has been read."""
        return self._row == self._rows

    @property
    def is_as_opened(self) -> bool:
        """Whether the file is the one that is open, and unchanged, as far as is known."""
        return self.source.current_state() == self._state

    def close(self) -> None:
        """Close the file."""
        self._parquet.close(force=True)

    def read(self, rows: range) -> Iterator[pa.RecordBatch]:
        """Yield rows, fewer where the file ends. Raises InputError where it is damaged."""
        group = bisect_right(self._ends, rows.start)
        group_start = self._ends[group - 1] if group else 0
        if not group_start <= self._row <= rows.start:
            self._row, self._read = group_start, None
            groups = range(group, len(self._ends))
            self._batches = parquet_batches(self.source, self._parquet, groups, self.columns)
        while self._row < rows.stop:
            batch = next(self._batches, None) if self._read is None else self._read
            if batch is None:
                return
            skipped = min(max(0, rows.start - self._row), batch.num_rows)
            part = batch.slice(skipped, rows.stop - self._row - skipped)
            rest = batch.slice(skipped + part.num_rows)
            self._row += batch.num_rows - rest.num_rows
            self._read = rest if rest.num_rows else None
            if part.num_rows:
                yield part
