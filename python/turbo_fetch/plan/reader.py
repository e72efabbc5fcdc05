"""The reader: a list as a stream of record batches, whatever its format, at flat memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from turbo_fetch.plan.columnar_lists import open_parquet, read_arrow, read_parquet
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.image_folders import count_images, read_images
from turbo_fetch.plan.json_lists import read_json
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.lists import ListFile, find_lists
from turbo_fetch.plan.selection import Selection, visible
from turbo_fetch.plan.stream import ByteStream
from turbo_fetch.plan.survey import survey
from turbo_fetch.plan.text_lists import BATCH_ROWS, DELIMITERS, read_cells, read_lines
from turbo_fetch.spec import InputSpec

__all__ = ["BATCH_ROWS", "ListFile", "ListReader", "find_lists", "read_rows"]


class ListReader:
    """Iterates over the rows of one file as batches of at most `BATCH_ROWS` rows, in order, once.

    A batch has the columns of `schema`: `url` (string), `caption` (string, if the spec names a caption column) and the
    kept columns, in which values that do not fit their type become null. No row of the file is left out but by the
    selection: one that is not well-formed has the text of the list behind `MALFORMED_MARK` in `url`. What was odd is
    counted in `notes`.

    `rows_read`, those that are taken, and `fraction_read` (0 to 1; by rows if their number is known, else by bytes of
    the file) tell how far it has come. A context manager. Raises InputError, naming the file, if it cannot be read or
    lacks a column, or, if the spec is strict, if anything is odd.
    """

    def __init__(
        self,
        source: ListFile,
        columns: Columns,
        schema: pa.Schema,
        selection: Selection | None = None,
        most: int | None = None,
    ) -> None:
        self.source = source
        self.notes = ListNotes(source.url)
        self.rows_read = 0
        self.fraction_read = 0.0
        self._columns = columns
        self._schema = schema
        self._selection = selection
        self._most = sys.maxsize if most is None else most
        self._stream: ByteStream | None = None
        self._parquet: pq.ParquetFile | None = None
        self._images: int | None = None
        if source.format == "parquet":
            self._parquet = open_parquet(source)
        elif source.format == "images":
            self._images = count_images(source)
        else:
            self._stream = ByteStream(source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading ends."""
        if self._stream is not None:
            self._stream.close()
        if self._parquet is not None:
            self._parquet.close(force=True)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches():
            if self._columns.is_strict:
                self.notes.refuse()
            self.notes.rows_before += batch.num_rows
            self.fraction_read = self._fraction_read()
            taken = batch if self._selection is None else self._selection.taken(batch)
            taken = taken.slice(0, self._most - self.rows_read)
            self.rows_read += taken.num_rows
            if taken.num_rows:
                yield taken
            if self.rows_read == self._most:
                break
        self.fraction_read = 1.0

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows."""
        return visible(self._schema)

    @property
    def total_rows(self) -> int | None:
        """How many rows of the file are taken; None if only reading tells."""
        rows = self._rows_in_file
        return None if self._selection is not None or rows is None else min(rows, self._most)

    @property
    def rows_known(self) -> int:
        """How many rows are taken for certain: all, if the file says how many, else those that were read."""
        return self.rows_read if self.total_rows is None else self.total_rows

    @property
    def left_out(self) -> int:
        """How many rows the selection has left out so far."""
        return 0 if self._selection is None else self._selection.left_out

    @property
    def _rows_in_file(self) -> int | None:
        return int(self._parquet.metadata.num_rows) if self._parquet else self._images

    @property
    def largest_row_group(self) -> int | None:
        """Rows of the largest row group of a Parquet file; None for other formats."""
        if self._parquet is None:
            return None
        metadata = self._parquet.metadata
        sizes = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        return max(sizes, default=0)

    def _fraction_read(self) -> float:
        if self._rows_in_file:
            return self.notes.rows_before / self._rows_in_file
        return self._stream.fraction_read if self._stream else 1.0

    def _batches(self) -> Iterator[pa.RecordBatch]:
        columns, schema, notes = self._columns, self._schema, self.notes
        if self.source.format == "images":
            return read_images(self.source, columns, schema, notes)
        if self._stream is None:
            return self._row_groups()
        stream = self._stream
        match self.source.format:
            case "txt":
                return read_lines(stream, columns, schema, notes)
            case "csv" | "tsv":
                return read_cells(stream, DELIMITERS[self.source.format], columns, schema, notes)
            case "arrow":
                return read_arrow(stream, columns, schema, notes)
            case _:
                return read_json(stream, self.source.format == "jsonl", columns, schema, notes)

    def _row_groups(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a Parquet file, past the row groups that have none to take."""
        parquet, selection = self._parquet, self._selection
        assert parquet is not None
        possible = None if selection is None else selection.possible_row_groups(parquet, self._schema)
        if selection is None or possible is None:
            yield from read_parquet(self.source, parquet, self._columns, self._schema, self.notes)
            return
        for group in range(parquet.num_row_groups):
            if group in possible:
                yield from read_parquet(
                    self.source, parquet, self._columns, self._schema, self.notes, [group]
                )
            else:
                rows = parquet.metadata.row_group(group).num_rows
                selection.passed_over(rows)
                self.notes.rows_before += rows


def read_rows(spec: InputSpec) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all files of a list, in order."""
    columns = Columns.of(spec)
    files = find_lists(spec)
    schema = survey(files, columns)
    for source in files:
        with ListReader(source, columns, schema) as reader:
            yield from reader
