"""Which row groups of a Parquet file may have rows that a condition holds for, by the statistics in its footer.

Statistics say between which values those of a column are, apart from NaN, and maybe cut short. So they can only rule
out that a column is less than, equal to, or greater than a constant; of all else in a condition, `not` and `!=` too,
rows have to be read. A constant is compared with the ends as it is with rows, in the type that these have.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as kinds
from numpy.typing import NDArray

from turbo_fetch.arrow.kept_types import is_string
from turbo_fetch.plan.condition import Comparison, Condition, Parts

_BOUNDED: Final[Mapping[type[ast.cmpop], tuple[type[ast.cmpop] | None, type[ast.cmpop] | None]]] = {
    ast.Lt: (ast.Lt, None),
    ast.LtE: (ast.LtE, None),
    ast.Gt: (None, ast.Gt),
    ast.GtE: (None, ast.GtE),
    ast.Eq: (ast.LtE, ast.GtE),
}
"""What has to hold of the least value, and of the greatest, so that it holds for a value between."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Ranges:
    """What is known of a column in each row group; the ends are null where nothing is."""

    least: pa.Array
    greatest: pa.Array
    has_values: Flags
    has_nulls: Flags


def possible_row_groups(
    parquet: pq.ParquetFile, condition: Condition, named: Mapping[str, str], schema: pa.Schema
) -> frozenset[int]:
    """Return the row groups with rows that the condition may hold for; `schema` has the rows, by `named` columns."""
    ranges: dict[str, _Ranges] = {}

    def known(column: str) -> _Ranges:
        if column not in ranges:
            ranges[column] = _ranges(parquet, column, schema.field(named[column]).type)
        return ranges[column]

    found = _possible(condition, condition.parts, known, parquet.num_row_groups)
    return frozenset(map(int, np.flatnonzero(found)))


def _possible(condition: Condition, parts: Parts, known: Callable[[str], _Ranges], groups: int) -> Flags:
    if parts is None:
        return np.full(groups, True)
    if isinstance(parts, Comparison):
        return _may_hold(condition, parts, known(parts.column))
    kind, inner = parts
    found = np.full(groups, kind is ast.And)
    for part in inner:
        possible = _possible(condition, part, known, groups)
        found = found & possible if kind is ast.And else found | possible
    return found


def _may_hold(condition: Condition, comparison: Comparison, ranges: _Ranges) -> Flags:
    if comparison.operator is ast.Is:
        return ranges.has_nulls
    possible = ranges.has_values
    ends = _BOUNDED.get(comparison.operator, (None, None))
    for operator, values in zip(ends, (ranges.least, ranges.greatest), strict=True):
        if operator is not None:
            possible = possible & _holds(condition, operator, values, comparison.constant)
    return possible


def _holds(condition: Condition, operator: type[ast.cmpop], ends: pa.Array, constant: Any) -> Flags:
    """Return for which ends a comparison holds, those too of which that is not known."""
    batch = pa.record_batch([ends, pa.array(range(len(ends)), pa.int64())], ["end", "group"])
    found = np.full(len(ends), False)
    try:
        holds = condition.compared(operator, "end", constant, batch.schema)
        found[batch.filter(holds | pc.field("end").is_null()).column("group").to_numpy()] = True
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return np.full(len(ends), True)
    return found


def _ranges(parquet: pq.ParquetFile, column: str, kind: pa.DataType) -> _Ranges:
    """Return what the footer says of a column whose rows will be of the type `kind`."""
    metadata, types = parquet.metadata, parquet.schema_arrow
    groups = range(metadata.num_row_groups)
    statistics: list[pq.Statistics | None] = [None for _ in groups]
    places = [place for place, path in enumerate(_paths(metadata)) if path == column]
    of_file = types.field(column).type if types.names.count(column) == 1 else pa.null()
    if len(places) == 1 and not kinds.is_nested(of_file):
        statistics = [metadata.row_group(group).column(places[0]).statistics for group in groups]
    nulls = [each.null_count if each is not None and each.has_null_count else None for each in statistics]
    rows = [metadata.row_group(group).num_rows for group in groups]
    # Of other types values may become null that are none in the file.
    keeps_values = of_file == kind and (_is_number(kind) or is_string(kind))
    return _Ranges(
        pa.array([_end(each, "min", of_file, kind) for each in statistics], kind),
        pa.array([_end(each, "max", of_file, kind) for each in statistics], kind),
        np.array([count is None or count < total for count, total in zip(nulls, rows, strict=True)], bool),
        np.array([count is None or count > 0 or not keeps_values for count in nulls], bool),
    )


def _paths(metadata: pq.FileMetaData) -> list[str]:
    return [metadata.schema.column(place).path for place in range(metadata.num_columns)]


def _end(statistics: pq.Statistics | None, which: str, of_file: pa.DataType, kind: pa.DataType) -> Any:
    """Return the least or greatest value of a row group as one of `kind`, None if it does not bound the rows."""
    is_text = is_string(of_file) and is_string(kind)
    if statistics is None or not statistics.has_min_max or not (is_text or _keeps_order(of_file, kind)):
        return None
    try:
        value = getattr(statistics, which)
    except UnicodeDecodeError:
        return None
    if is_text:
        # Bytes of the rows that are not UTF-8 become U+FFFD, which is greater than all of ASCII as they were.
        return value if value.isascii() else None
    if value != value:
        return None
    return float(value) if kinds.is_floating(kind) else value


def _is_number(kind: pa.DataType) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_float32(kind) or kinds.is_float64(kind))


def _keeps_order(of_file: pa.DataType, kind: pa.DataType) -> bool:
    """Whether numbers of one type are in the same order as numbers of the other, if they are not null."""
    if kinds.is_integer(of_file):
        return bool(kinds.is_integer(kind) or kinds.is_float64(kind))
    return _is_number(of_file) and (kind == of_file or bool(kinds.is_float64(kind)))
