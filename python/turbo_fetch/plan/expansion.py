"""What few bytes of a list expand to, and how much of it is held at once.

Bytes of a file may stand for any number of others: compressed ones, and values that many rows share. So it is read in
pieces of about `PIECE_BYTES`, whatever its rows are like, and refused where no piece is so small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from turbo_fetch.errors import InputError
from turbo_fetch.plan.lists import ListFile, readable

PIECE_BYTES: Final = 64 << 20
MAX_HELD_BYTES: Final = 1 << 30
"""Of a shard, of a window, or of what a file has in one piece."""
MAX_RATIO: Final = 50
"""How many times its own size a part of a file may expand to where that is much."""

_ELEMENT_BYTES: Final = 8


class HeldRows:
    """Rows that are held until they are a shard or a window; InputError when they take too much memory."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._parts: list[pa.RecordBatch] = []
        self._bytes = 0
        self.count = 0

    def add(self, part: pa.RecordBatch) -> None:
        """Take rows."""
        self._parts.append(part)
        self._bytes += part.nbytes
        self.count += part.num_rows
        if self._bytes > MAX_HELD_BYTES:
            raise InputError(
                f"{self._file}: {self.count:,} rows that are to be held at once have {self._bytes:,} bytes; expected "
                f'at most {MAX_HELD_BYTES:,}: a smaller fetch.output.samples_per_shard, and order = "position"'
            )

    def take(self, schema: pa.Schema | None = None) -> pa.Table:
        """Return the rows, which from then on belong to the caller alone."""
        parts, self._parts, self._bytes, self.count = self._parts, [], 0, 0
        return pa.Table.from_batches([parts.pop(0) for _ in range(len(parts))], schema)


def refuse_bomb(file: str, part: str, stored: int, expanded: int) -> None:
    """Raise InputError if a part of a file expands to far more than it is."""
    if expanded > MAX_HELD_BYTES and expanded > MAX_RATIO * stored:
        raise InputError(
            f"{file}: {part} expands from {stored:,} bytes to {expanded:,}; expected at most {MAX_HELD_BYTES:,}, or "
            f"{MAX_RATIO} times as many"
        )


def parquet_rows_at_once(
    source: ListFile, metadata: pq.FileMetaData, group: int, columns: Sequence[str], most: int
) -> int:
    """Return how many rows of some columns of a row group make a piece, at most `most`.

    Raises InputError if no number does, or the file cannot be read.
    """
    found = metadata.row_group(group)
    rows, row_bytes = max(1, found.num_rows), 0.0
    shared: dict[str, float] = {}
    for chunk in map(found.column, range(found.num_columns)):
        path = chunk.path_in_schema
        if not any(f"{path}.".startswith(f"{column}.") for column in columns):
            continue
        refuse_bomb(
            source.url,
            f"column {path!r} of row group {group}",
            chunk.total_compressed_size,
            chunk.total_uncompressed_size,
        )
        values_per_row = chunk.num_values / rows
        row_bytes += max(chunk.total_uncompressed_size / rows, _ELEMENT_BYTES * values_per_row)
        if chunk.has_dictionary_page and chunk.physical_type == "BYTE_ARRAY":
            shared[path] = values_per_row
    if shared and row_bytes * rows * min(rows, most) > PIECE_BYTES:
        lengths = _longest_shared(source, metadata, group, list(shared))
        row_bytes = max(row_bytes, sum(map(lambda length, times: length * times, lengths, shared.values())))
    return max(1, min(most, int(PIECE_BYTES / max(1.0, row_bytes))))


def _longest_shared(
    source: ListFile, metadata: pq.FileMetaData, group: int, paths: Sequence[str]
) -> list[int]:
    """Return how long the longest value in the dictionary of each of these columns of a row group is."""
    with readable(source.url), source.open() as file:
        parquet = pq.ParquetFile(
            file, metadata=metadata, read_dictionary=list(paths), pre_buffer=False, buffer_size=1 << 16
        )
        found = []
        for path in paths:
            batch = next(parquet.iter_batches(1, row_groups=[group], columns=[path], use_threads=False))
            found.append(max(map(_longest, _dictionaries(batch.column(0))), default=0))
        return found


def _dictionaries(array: pa.Array) -> Iterator[pa.Array]:
    """Yield the dictionaries of an array of any type."""
    if pa.types.is_dictionary(array.type):
        yield array.dictionary
    elif pa.types.is_struct(array.type):
        for number in range(array.type.num_fields):
            yield from _dictionaries(array.field(number))
    elif pa.types.is_nested(array.type):
        yield from _dictionaries(array.values)


def _longest(values: pa.Array) -> int:
    return pc.max(pc.binary_length(values)).as_py() or 0
