"""Parquet files that are the same bytes however their rows were handed in."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from turbo_fetch.dataset.formats.staged_file import StagedFile, WrittenFile

ROWS_PER_GROUP: Final = 10_000
IMAGES_PER_GROUP: Final = 256
IMAGE_BYTES_PER_GROUP: Final = 32 << 20


class TableFile:
    """A Parquet file with row groups of a fixed number of rows, closed earlier where `weighed` grows heavy.

    A row group ends after `rows_per_group` rows, or before the row with which the binary values of the columns
    `weighed` (or of their fields `bytes`) would exceed `bytes_per_group`; so the bytes depend on the rows alone.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        rows_per_group: int = ROWS_PER_GROUP,
        weighed: Sequence[str] = (),
        bytes_per_group: int = 0,
    ) -> None:
        self._schema = schema
        self._rows_per_group = rows_per_group
        self._weighed = weighed
        self._bytes_per_group = bytes_per_group
        self._file = StagedFile(path)
        self._gathered: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0
        self._writer = pq.ParquetWriter(self._file, schema, **_options(schema, weighed))

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows; the batch must have the schema of the file, up to schema metadata."""
        start = 0
        for stop, size in enumerate(self._sizes(batch).tolist()):
            if self._is_full(size):
                self._gathered.append(batch.slice(start, stop - start))
                self._end_group()
                start = stop
            self._rows += 1
            self._bytes += size
        self._gathered.append(batch.slice(start))

    def finish(self, name: str) -> WrittenFile:
        """Write the last row group and the footer; return the file, to be published as `name`."""
        self._end_group()
        self._writer.close()
        return self._file.finish(name)

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def _is_full(self, next_bytes: int) -> bool:
        too_heavy = bool(self._weighed) and self._bytes + next_bytes > self._bytes_per_group
        return self._rows == self._rows_per_group or (self._rows > 0 and too_heavy)

    def _sizes(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        sizes = np.zeros(batch.num_rows, np.int64)
        for name in self._weighed:
            values = batch.column(name)
            if pa.types.is_struct(values.type):
                values = pc.struct_field(values, "bytes")
            sizes += np.asarray(pc.fill_null(pc.binary_length(values), 0), np.int64)
        return sizes

    def _end_group(self) -> None:
        if self._rows:
            # One contiguous chunk: where chunks end would show in the data pages.
            table = pa.Table.from_batches(self._gathered).combine_chunks()
            table = pa.Table.from_arrays(table.columns, schema=self._schema)
            self._writer.write_table(table, row_group_size=self._rows)
        self._gathered = []
        self._rows = 0
        self._bytes = 0


def _options(schema: pa.Schema, weighed: Sequence[str]) -> dict[str, Any]:
    if not weighed:
        return {"compression": "zstd"}
    # Images are compressed already: trying again, or looking for repeated ones, only costs time.
    others = [path for path in _leaves(schema) if path.partition(".")[0] not in weighed]
    return {"compression": dict.fromkeys(others, "zstd"), "use_dictionary": others}


def _leaves(schema: pa.Schema) -> list[str]:
    """Return the paths of the Parquet columns that `schema` becomes."""
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    columns = pq.ParquetFile(sink).schema
    return [columns.column(index).path for index in range(len(columns))]
