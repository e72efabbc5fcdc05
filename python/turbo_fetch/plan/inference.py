"""Types of the kept columns of lists that are text: found in the first rows, then held to.

A later value that does not fit becomes null, so that every shard of a dataset has the same types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.plan.columns import fitted

_NULL: Final = (
    r"^(|#N/A|#N/A N/A|#NA|-1\.#IND|-1\.#QNAN|-NaN|-nan|1\.#IND|1\.#QNAN|N/A|NA|NULL|NaN|n/a|nan|null)$"
)
"""What pyarrow's CSV reader, and so img2dataset, takes for null in columns that are not strings."""

_TYPES: Final = (
    pa.int64(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("s"),
    pa.timestamp("ns"),
    pa.float64(),
)
"""Tried in this order, as by pyarrow's CSV reader."""

_LEADING_ZERO: Final = r"^[+-]?0[0-9]"


def cell_type(cells: pa.Array) -> pa.DataType:
    """Return the type of a CSV column, given its first cells as strings.

    The first of int64, bool, date, timestamp and double that all cells fit; else string. Numbers with
    leading zeros are identifiers and stay strings, and so does a column without any value.
    """
    values = _trimmed(cells).drop_null()
    if len(values) == 0 or pc.any(pc.match_substring_regex(values, _LEADING_ZERO)).as_py():
        return pa.string()
    for kind in _TYPES:
        try:
            values.cast(kind)
        except pa.ArrowInvalid:
            continue
        return kind
    return pa.string()


def typed_cells(cells: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return cells of a CSV column as `kind`; what does not fit is null."""
    if kind == pa.string():
        return cells
    return fitted(_trimmed(cells), kind, lambda part: part.cast(kind))


def _trimmed(cells: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.match_substring_regex(trimmed, _NULL), pa.scalar(None, pa.string()), trimmed)


def value_type(values: Sequence[Any]) -> pa.DataType:
    """Return the type of a JSON member, given its first values.

    Booleans, int64, double, string, or lists of these; values of several types, objects, and lists of
    objects are kept as JSON text, so that no member of them is lost.
    """
    try:
        kind = pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
        return pa.string()
    return pa.string() if pa.types.is_null(_innermost(kind)) or _has_struct(kind) else kind


def typed_values(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return values of a JSON member as `kind`; what does not fit is null, or JSON text in a string."""
    if kind == pa.string():
        return texts(values)
    return fitted(values, kind, lambda part: pa.array(part, kind))


def texts(values: Sequence[Any]) -> pa.Array:
    """Return JSON values as strings: strings as they are, null as null, all others as JSON text."""
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return orjson.dumps(value, default=repr).decode()
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode()
    return value


def _innermost(kind: pa.DataType) -> pa.DataType:
    return _innermost(kind.value_type) if pa.types.is_list(kind) else kind


def _has_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(_innermost(kind)))
