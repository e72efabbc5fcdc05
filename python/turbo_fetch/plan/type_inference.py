"""Types of the kept columns: one for each, which the values of all files of a list fit.

Columns of tables have a type, which is joined with those of other files. Cells of CSV and members of JSON have the type
that all their values suggest (see `survey.py`). Where there is no common type that keeps every value, it is text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.kept_types import is_binary, is_string, kept_type, kept_values, valid_texts
from turbo_fetch.arrow.python_values import python_values
from turbo_fetch.plan.text_values import texts

EXACT_IN_DOUBLE: Final = 2**53
"""The largest magnitude up to which a double holds every integer."""

_NULL: Final = (
    r"^(|#N/A|#N/A N/A|#NA|-1\.#IND|-1\.#QNAN|-NaN|-nan|1\.#IND|1\.#QNAN|N/A|NA|NULL|NaN|n/a|nan|null)$"
)
"""What pyarrow's CSV reader, and so img2dataset, takes for null in columns that are not strings."""

_CELL_TYPES: Final = (
    pa.int64(),
    pa.bool_(),
    pa.date32(),
    pa.timestamp("s"),
    pa.timestamp("ns"),
    pa.float64(),
)
"""Tried in this order, as by pyarrow's CSV reader."""

_IDENTIFIER: Final = r"^(\+|-?0[0-9xX]|-0$)"
"""Starts a number that would not be written like that again: a plus, leading zeros, or hexadecimal."""
_BIT: Final = r"^[01]$"
_LONG_INTEGER: Final = r"^[+-]?[0-9]{16,}$"

DECLARED: Final = {
    "string": pa.string(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}
"""Types that a spec can name."""


class Kind(NamedTuple):
    """The type of a column, and whether it has integers that a double does not hold."""

    type: pa.DataType
    is_long: bool = False


@dataclass(frozen=True, slots=True)
class CellKinds:
    """The types that all cells of a CSV column fit, in the order of preference; all of them before a value is seen."""

    types: tuple[pa.DataType, ...] = _CELL_TYPES
    has_values: bool = False

    def narrowed(self, cells: pa.Array) -> CellKinds:
        """Return the types that these cells fit as well.

        Numbers with leading zeros or a plus, and integers that are too long for their type are identifiers: text.
        """
        if self.has_values and not self.types:
            return self
        values = _trimmed(cells).drop_null()
        if len(values) == 0:
            return self
        if pc.any(pc.match_substring_regex(values, _IDENTIFIER)).as_py():
            return CellKinds((), has_values=True)
        return CellKinds(tuple(kind for kind in self.types if _all_fit(values, kind)), has_values=True)

    def joined(self, other: CellKinds) -> CellKinds:
        """Return the types that the cells of both fit."""
        both = tuple(kind for kind in self.types if kind in other.types)
        return CellKinds(both, self.has_values or other.has_values)

    @property
    def type(self) -> pa.DataType:
        """The first of the types; string if there is none, or no value."""
        return self.types[0] if self.has_values and self.types else pa.string()


def _all_fit(values: pa.Array, kind: pa.DataType) -> bool:
    if kind == pa.float64() and _has_long_integers(values):
        return False
    # Arrow takes 0 and 1 for booleans beside `true`, and what a double does not hold for infinite.
    if kind == pa.bool_() and pc.any(pc.match_substring_regex(values, _BIT)).as_py():
        return False
    try:
        fitting = values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return kind != pa.float64() or not pc.any(_overflown(values, fitting)).as_py()


def _overflown(cells: pa.Array, numbers: pa.Array) -> pa.Array:
    """Return which numbers are infinite though their cells have digits."""
    return pc.and_(pc.is_inf(numbers), pc.match_substring_regex(cells, "[0-9]"))


def _has_long_integers(values: pa.Array) -> bool:
    long = values.filter(pc.match_substring_regex(values, _LONG_INTEGER))
    return any(abs(int(value)) > EXACT_IN_DOUBLE for value in long.to_pylist())


def typed_cells(cells: pa.Array, kind: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Return cells of a CSV column as `kind`, null where they do not fit; and which of them do not."""
    if is_string(kind):
        return cells, pa.nulls(len(cells), pa.bool_())
    trimmed = _trimmed(cells)
    is_identifier = pc.match_substring_regex(trimmed, _IDENTIFIER)
    fitting = pc.if_else(is_identifier, pa.scalar(None, pa.string()), trimmed)
    if kind == pa.bool_():
        is_bit = pc.match_substring_regex(trimmed, _BIT)
        fitting = pc.if_else(is_bit, pa.scalar(None, pa.string()), fitting)
    typed = fitted(fitting, kind, lambda part: part.cast(kind))
    if kind == pa.float64():
        typed = pc.if_else(_overflown(fitting, typed), pa.scalar(None, kind), typed)
    return typed, pc.and_(pc.is_valid(trimmed), pc.is_null(typed))


def _trimmed(cells: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.match_substring_regex(trimmed, _NULL), pa.scalar(None, pa.string()), trimmed)


def value_kind(values: Sequence[Any]) -> Kind:
    """Return the type of values of a JSON member; null if there are none.

    Booleans, int64, double, string, or lists of these; values of several types, objects, and lists of
    objects are kept as JSON text, so that no member of them is lost.
    """
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
        return Kind(pa.string())
    if _has_struct(array.type):
        return Kind(pa.string())
    return Kind(array.type, _is_long(array))


def _is_long(array: pa.Array) -> bool:
    while pa.types.is_list(array.type):
        array = array.flatten()
    if array.type != pa.int64() or len(array) == 0:
        return False
    extremes = pc.min_max(array).as_py().values()
    return any(abs(value) > EXACT_IN_DOUBLE for value in extremes if value is not None)


def settled(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column all of whose values have been seen: what has no values is text, in lists too."""
    if pa.types.is_null(kind):
        return pa.string()
    return pa.list_(settled(kind.value_type)) if pa.types.is_list(kind) else kind


def typed_values(values: Sequence[Any], kind: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Return values of a JSON member as `kind`, JSON text in a string, null where they do not fit; and which do not."""
    if kind == pa.string():
        return texts(values), pa.nulls(len(values), pa.bool_())
    typed = _of_json(values, kind)
    return typed, pc.and_(pa.array([value is not None for value in values]), pc.is_null(typed))


def _of_json(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    try:
        typed = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
        typed = None
    if typed is not None and typed.type == kind:
        return typed
    # Arrow itself would cut fractions off integers, and take integers for times.
    fitting = [value if _is_of(value, kind) else None for value in values]
    typed = fitted(fitting, kind, lambda part: pa.array(part, kind))
    if pa.types.is_list(kind) or not any(isinstance(value, str) for value in values):
        return typed
    cells = texts([value if isinstance(value, str) else None for value in values])
    return pc.coalesce(typed, typed_cells(cells, kind)[0])


def _is_of(value: Any, kind: pa.DataType) -> bool:
    """Whether a JSON value is one of a type that is not text, without a loss."""
    if pa.types.is_list(kind):
        item = kind.value_type
        return isinstance(value, list) and all(each is None or _is_of(each, item) for each in value)
    if pa.types.is_integer(kind):
        return type(value) is int or (type(value) is float and value.is_integer())
    if pa.types.is_floating(kind):
        return type(value) in {int, float}
    return isinstance(value, bool if pa.types.is_boolean(kind) else str) and not pa.types.is_temporal(kind)


def _innermost(kind: pa.DataType) -> pa.DataType:
    return _innermost(kind.value_type) if pa.types.is_list(kind) else kind


def _has_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(_innermost(kind)))


def joined(first: Kind, second: Kind) -> Kind:
    """Return the type that the values of two columns fit, without loss; text where there is no other."""
    is_long = first.is_long or second.is_long
    # A struct without fields is false.
    common = _common(first.type, second.type, is_long)
    return Kind(pa.string() if common is None else common, is_long)


def _common(first: pa.DataType, second: pa.DataType, is_long: bool) -> pa.DataType | None:
    """Return a type that holds all values of two others, None if only text does."""
    if first == second:
        return first
    first, second = (kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (first, second))
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    if is_string(first) or is_string(second):
        other = second if is_string(first) else first
        return pa.large_string() if is_string(other) else pa.binary() if is_binary(other) else None
    if _is_list(first) and _is_list(second):
        item = _common(first.value_type, second.value_type, is_long)
        return None if item is None else pa.large_list(item) if _is_large(first, second) else pa.list_(item)
    if pa.types.is_struct(first) and pa.types.is_struct(second):
        return _common_struct(first, second, is_long)
    if pa.types.is_temporal(first) and pa.types.is_temporal(second):
        return _common_time(first, second)
    return None if _may_lose(first, second, is_long) else _unified(first, second)


def _may_lose(first: pa.DataType, second: pa.DataType, is_long: bool) -> bool:
    """Whether the type that Arrow would choose for numbers of both types does not hold all of them exactly."""
    floats = [pa.types.is_floating(kind) for kind in (first, second)]
    decimals = [pa.types.is_decimal(kind) for kind in (first, second)]
    others = (
        [pa.types.is_unsigned_integer(kind) for kind in (first, second)] if not any(decimals) else decimals
    )
    if any(floats) and not all(floats):
        return is_long or any(decimals)
    return is_long and any(others) and not all(others)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_large(first: pa.DataType, second: pa.DataType) -> bool:
    return bool(pa.types.is_large_list(first) or pa.types.is_large_list(second))


def _common_struct(first: pa.StructType, second: pa.StructType, is_long: bool) -> pa.DataType | None:
    names = dict.fromkeys(field.name for kind in (first, second) for field in kind)
    members = {}
    for name in names:
        kinds = [kind.field(name).type for kind in (first, second) if kind.get_field_index(name) >= 0]
        members[name] = kinds[0] if len(kinds) == 1 else _common(kinds[0], kinds[1], is_long)
    return None if None in members.values() else pa.struct(list(members.items()))


def _common_time(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    stamps = [kind for kind in (first, second) if pa.types.is_timestamp(kind)]
    if len(stamps) == 2 and (stamps[0].tz is None) == (stamps[1].tz is None):
        zone = stamps[0].tz if stamps[0].tz == stamps[1].tz else "UTC"
        return pa.timestamp(max((kind.unit for kind in stamps), key=["s", "ms", "us", "ns"].index), zone)
    if len(stamps) == 1:
        other = second if stamps[0] == first else first
        return stamps[0] if pa.types.is_date32(other) and stamps[0].tz is None else None
    return _unified(first, second)


def _unified(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    schemas = [pa.schema([("column", kind)]) for kind in (first, second)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("column").type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def typed_column(array: pa.Array, kind: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Return a column of a table as `kind`, JSON text for nested values in a string, null where values do not fit; and
    which do not. Columns of strings must be valid UTF-8 already."""
    plain = fitted(array, kept_type(array.type), kept_values)
    if not is_string(array.type):
        plain = valid_texts(plain)
    if plain.type == kind:
        typed = plain
    elif is_string(kind) and pa.types.is_nested(plain.type):
        typed = pa.array([None if value is None else _json(value) for value in python_values(plain)], kind)
    else:
        typed = fitted(plain, kind, lambda part: part.cast(kind))
    return typed, pc.and_(pc.is_valid(array), pc.is_null(typed))


def _json(value: object) -> str:
    return orjson.dumps(value, default=str).decode()


def fitted(values: Any, kind: pa.DataType, convert: Callable[[Any], pa.Array]) -> pa.Array:
    """Return `values`, an array or a list, converted to `kind`, with null for each that does not fit.

    `convert` takes any slice of the values. A slice with a misfit is halved until the misfit is alone, so
    that few misfits cost few conversions.
    """
    try:
        return convert(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OverflowError, UnicodeError):
        if len(values) <= 1:
            return pa.nulls(len(values), kind)
    middle = len(values) // 2
    halves = [fitted(values[:middle], kind, convert), fitted(values[middle:], kind, convert)]
    return pa.concat_arrays(halves)
