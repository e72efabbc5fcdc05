"""Batches of an Arrow file as parts that are sound, and take little memory.

Arrow believes what an IPC file says: offsets that point outside of a buffer show memory that is none of the file's, or
end the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.kept_types import is_binary, is_string
from turbo_fetch.plan.expansion import PIECE_BYTES

_NOT_UTF8: Final = "UTF8"
"""In what Arrow says of texts whose bytes are no UTF-8; those are for whoever reads them."""


def sound_parts(
    batches: Iterable[pa.RecordBatch], names: Sequence[str], most_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield some columns, those that are there, in parts of at most so many rows; ArrowInvalid for one that is damaged.

    Values that many rows share are not copied for more of them at once than fit into a piece.
    """
    for batch in batches:
        wanted = batch.select([name for name in names if name in batch.schema.names])
        for column in wanted.columns:
            # What is read of every column before the first part of it is looked at.
            column.validate()
            if pa.types.is_dictionary(column.type):
                _check(column.dictionary)
        for start in range(0, batch.num_rows, most_rows):
            part = wanted.slice(start, most_rows)
            for column in part.columns:
                _check(column.indices if pa.types.is_dictionary(column.type) else column)
            yield from _by_size(part)


def _check(array: pa.Array) -> None:
    """Raise ArrowInvalid if an array is damaged, be it that its texts are no UTF-8."""
    array.validate()
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        # It may come from one of the parts, before others were looked at.
        if _NOT_UTF8 not in str(error):
            raise
        _check_parts(array)


def _check_parts(array: Any) -> None:
    kinds, kind = pa.types, array.type
    if isinstance(kind, pa.BaseExtensionType):
        _check(array.storage)
    elif kinds.is_dictionary(kind):
        _check_indices(array.indices, len(array.dictionary))
        _check(array.dictionary)
    elif kinds.is_struct(kind):
        for number in range(kind.num_fields):
            _check(array.field(number))
    elif kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_map(kind):
        offsets = array.offsets.to_numpy(zero_copy_only=False)
        if (np.diff(offsets) < 0).any():
            raise pa.ArrowInvalid("offsets of lists are out of order")
        _check_indices(array.offsets, len(array.values) + 1)
        _check(array.values)
    elif kinds.is_nested(kind):
        raise pa.ArrowInvalid(f"texts of a {kind} are not UTF-8")


def _check_indices(indices: pa.Array, length: int) -> None:
    found = pc.min_max(indices).as_py()
    if found["min"] is not None and not 0 <= found["min"] <= found["max"] < length:
        raise pa.ArrowInvalid(f"an index is {found['max']}, of {length} values")


def _by_size(part: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a part whole, or in smaller ones where values of dictionaries would take much when they are copied."""
    sizes = np.zeros(part.num_rows)
    for column in part.columns:
        if not pa.types.is_dictionary(column.type):
            continue
        _check_indices(column.indices, len(column.dictionary))
        if is_string(column.type.value_type) or is_binary(column.type.value_type):
            lengths = pc.binary_length(column.dictionary).take(column.indices)
            sizes += lengths.fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(sizes)
    start = 0
    while start < part.num_rows:
        before = ends[start - 1] if start else 0.0
        end = max(start + 1, int(np.searchsorted(ends, before + PIECE_BYTES, "right")))
        yield part.slice(start, end - start)
        start = end
