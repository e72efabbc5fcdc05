"""Rows of a batch by their indices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def rows_at(batch: pa.RecordBatch, rows: npt.NDArray[np.uint32]) -> pa.RecordBatch:
    """Return the rows at the indices `rows` of a batch, in that order.

    A range, as in every new shard, is neither copied, nor does it need what taking rows has to import.
    """
    if rows.size and np.array_equal(rows, np.arange(rows[0], rows[0] + rows.size)):
        if int(rows[-1]) >= batch.num_rows:
            raise IndexError(f"row {rows[-1]} of a shard whose source has {batch.num_rows} rows")
        return batch.slice(int(rows[0]), rows.size)
    return pa.RecordBatch.from_arrays([_taken(column, rows) for column in batch.columns], schema=batch.schema)


def _taken(values: pa.Array, rows: npt.NDArray[np.uint32]) -> pa.Array:
    try:
        return values.take(pa.array(rows))
    except pa.ArrowNotImplementedError:
        # Arrow cannot take from views yet.
        return pa.concat_arrays([values.slice(0, 0), *(values.slice(row, 1) for row in rows.tolist())])
