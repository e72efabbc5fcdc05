"""Images in a column of Parquet and Arrow files, read from front to back, a few megabytes at a time.

A Parquet file is read by row groups, from the start of one, so how far a file was read is remembered: the next shard
goes on from there, and a row group of a gigabyte is decompressed once, not once per shard. What has to fit into memory
are two data pages of the column, for these are read whole.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from turbo_fetch.errors import InputError
from turbo_fetch.plan.arrow_batches import sound_parts
from turbo_fetch.plan.columnar_lists import open_arrow, open_parquet, parquet_batches
from turbo_fetch.plan.lists import ListFile
from turbo_fetch.plan.stream import ByteStream

PIECE_BYTES: Final = 4_000_000
"""About how much is read at once."""
MOST_ROWS: Final = 1024

Piece = tuple[int, pa.Array]
"""The number of a row in its file, and values of the column from there on."""


class _File(Protocol):
    """An open file, and how its column is read."""

    def pieces(self, row: int) -> Iterator[Piece]:
        """Yield the values from the row on, or from before it."""

    def skips(self, row: int, target: int) -> bool:
        """Whether to begin anew at a row is cheaper than to read on to it."""

    def close(self) -> None:
        """Close it."""


class ImageColumn:
    """Reads the images of rows by number; used by one thread at a time."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._last: _Cursor | None = None

    def images(self, file: str, numbers: Sequence[int]) -> Iterator[list[tuple[int, memoryview | None]]]:
        """Yield the images of rows of a file, whose numbers ascend, some at a time; None where there is none.

        Blocks. Raises InputError or what Arrow and the file system raise.
        """
        cursor = self._cursor(file, numbers[0])
        try:
            yield from cursor.read(numbers)
        except BaseException:
            cursor.file.close()
            raise
        self._last = cursor

    def close(self) -> None:
        """Close the file that was read last."""
        if self._last is not None:
            self._last.file.close()
            self._last = None

    def _cursor(self, name: str, row: int) -> _Cursor:
        """Return where a file was read to, if that is before a row, or a file just opened."""
        last = self._last
        if last is not None and last.name == name and last.first <= row:
            self._last = None
            return last
        self.close()
        source = ListFile(name, None, "parquet", None, "")
        if _is_arrow(source):
            return _Cursor(name, _Arrow(source, self._column))
        return _Cursor(name, _Parquet(source, self._column))


class _Cursor:
    """How far a file was read."""

    def __init__(self, name: str, file: _File) -> None:
        self.name = name
        self.file = file
        self.first = 0
        """The number of the first row that is at hand."""
        self._values: pa.Array = pa.array([])
        self._pieces: Iterator[Piece] | None = None

    def read(self, numbers: Sequence[int]) -> Iterator[list[tuple[int, memoryview | None]]]:
        found: list[tuple[int, memoryview | None]] = []
        for number in numbers:
            if number >= self.first + len(self._values):
                if found:
                    yield found
                found = []
                self._go_to(number)
            found.append((number, _bytes(self._values[number - self.first])))
        yield found

    def _go_to(self, number: int) -> None:
        after = self.first + len(self._values)
        if self._pieces is None or self.file.skips(after, number):
            self._pieces = self.file.pieces(number)
        for first, values in self._pieces:
            self.first, self._values = first, values
            if number < first + len(values):
                return
        raise InputError(f"{self.name}: there is no row {number:,}; has the file changed?")


class _Parquet:
    def __init__(self, source: ListFile, column: str) -> None:
        self._source = source
        self._parquet: pq.ParquetFile = open_parquet(source)
        self._column = column
        metadata = self._parquet.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(rows)]

    def pieces(self, row: int) -> Iterator[Piece]:
        """See _File."""
        for group in range(self._group(row), self._parquet.num_row_groups):
            first = self._starts[group]
            most = self._rows_at_once(group)
            for batch in parquet_batches(self._source, self._parquet, [group], [self._column], most):
                yield first, batch.column(0)
                first += batch.num_rows

    def skips(self, row: int, target: int) -> bool:
        """See _File."""
        return self._group(target) > self._group(row)

    def close(self) -> None:
        """See _File."""
        self._parquet.close(force=True)

    def _group(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _rows_at_once(self, group: int) -> int:
        metadata = self._parquet.metadata.row_group(group)
        columns = (metadata.column(index) for index in range(metadata.num_columns))
        size = sum(
            each.total_uncompressed_size
            for each in columns
            if f"{each.path_in_schema}.".startswith(f"{self._column}.")
        )
        return int(max(1, min(MOST_ROWS, PIECE_BYTES * metadata.num_rows // max(1, size))))


class _Arrow:
    """An Arrow stream or file; mapped where it lies on this machine, so that to pass over rows costs nothing."""

    def __init__(self, source: ListFile, column: str) -> None:
        self._source = source
        self._column = column
        self._stream: ByteStream | None = None

    def pieces(self, row: int) -> Iterator[Piece]:
        """See _File; begins with the first row."""
        self.close()
        self._stream = ByteStream(self._source)
        first = 0
        for part in sound_parts(open_arrow(self._stream), [self._column], MOST_ROWS):
            yield first, part.column(0)
            first += part.num_rows

    def skips(self, row: int, target: int) -> bool:
        """See _File."""
        return False

    def close(self) -> None:
        """See _File."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _is_arrow(source: ListFile) -> bool:
    with source.open() as file:
        return file.read(4) != b"PAR1"


def _bytes(value: Any) -> memoryview | None:
    """Return the bytes of a value of the column without a copy: of itself, or of its field `bytes`."""
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    if isinstance(value, pa.StructScalar):
        value = value["bytes"] if value.is_valid else None
    if value is None or not value.is_valid:
        return None
    return memoryview(value.as_buffer())
