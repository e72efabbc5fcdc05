"""Arrow values as Python objects, of any type and size that a list may have.

Python's own times stop at microseconds and the year 9999, and Arrow's conversion fails for one that does not fit:
`python_values` does not. `json_values` has what JSON can say:

- booleans, integers (all 64 bits), strings: themselves; what is not UTF-8 in a string: U+FFFD
- floats: numbers; NaN and infinities, which JSON lacks: null
- decimals: strings, exact
- dates, times, timestamps: ISO 8601 with the digits of their unit; with a time zone: in UTC, ending in Z
- durations: integers in the unit of the column
- binary: base64 strings; UUIDs: strings in their canonical form
- lists: arrays; structs: objects; maps: arrays of objects with `key` and `value`
- dictionary-encoded and other extension types: as what they encode or are stored as
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from turbo_fetch.arrow.kept_types import is_binary, is_list, is_string

Values = list[Any]


def python_rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
    """Return rows as `to_pylist`, with values as `python_values` has them."""
    columns = [python_values(column) for column in batch.columns]
    names = batch.schema.names
    return [
        dict(zip(names, (column[row] for column in columns), strict=True)) for row in range(batch.num_rows)
    ]


def python_values(array: pa.Array | pa.ChunkedArray) -> Values:
    """Return the values as Arrow does; one that Python has no object for as in JSON, a duration as ISO 8601.

    Times in nanoseconds are Python's where they are whole microseconds, whether pandas is there or not.
    """
    if isinstance(array, pa.ChunkedArray):
        return [value for chunk in array.chunks for value in python_values(chunk)]
    try:
        return list(_in_microseconds(array).to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        if len(array) == 1:
            return [_lacking(array)]
    middle = len(array) // 2
    return python_values(array[:middle]) + python_values(array[middle:])


def _in_microseconds(array: pa.Array) -> pa.Array:
    kind = array.type
    if kinds.is_timestamp(kind) and kind.unit == "ns":
        return array.cast(pa.timestamp("us", kind.tz))
    if kinds.is_duration(kind) and kind.unit == "ns":
        return array.cast(pa.duration("us"))
    return array.cast(pa.time64("us")) if kind == pa.time64("ns") else array


def _lacking(array: pa.Array) -> Any:
    (value,) = json_values(array)
    if not kinds.is_duration(array.type):
        return value
    digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[array.type.unit]
    whole, rest = divmod(abs(value), 10**digits)
    fraction = f".{rest:0{digits}}".rstrip(".0") if rest else ""
    return f"{'-' if value < 0 else ''}PT{whole}{fraction}S"


def json_values(array: pa.Array) -> Values:
    """Return the values as Python objects that orjson writes, as described above."""
    for applies, convert in _CONVERSIONS:
        if applies(array.type):
            return convert(array)
    return list(array.to_pylist())


def _storage(array: pa.Array) -> Values:
    return json_values(array.storage)


def _decoded(array: pa.Array) -> Values:
    return json_values(array.dictionary_decode())


def _strings(array: pa.Array) -> Values:
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        raw = array.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode(errors="replace") for value in raw]


def _base64(array: pa.Array) -> Values:
    return [None if value is None else base64.b64encode(value).decode() for value in array.to_pylist()]


def _as_text(array: pa.Array) -> Values:
    return [None if value is None else str(value) for value in array.to_pylist()]


def _decimals(array: pa.Array) -> Values:
    return [None if value is None else format(value, "f") for value in array.to_pylist()]


def _dates(array: pa.Array) -> Values:
    return _moments(array, "D") if kinds.is_date32(array.type) else _moments(array.cast(pa.date32()), "D")


def _timestamps(array: pa.Array) -> Values:
    return _moments(array, array.type.unit, "" if array.type.tz is None else "Z")


def _moments(array: pa.Array, unit: str, suffix: str = "") -> Values:
    # numpy writes every year and unit; Python's datetime stops at microseconds and the year 9999.
    counts = pc.fill_null(array.cast(pa.int32() if unit == "D" else pa.int64()), 0)
    moments = counts.to_numpy(zero_copy_only=False).astype(np.int64).view(f"datetime64[{unit}]")
    texts = np.datetime_as_string(moments)
    return [
        f"{text}{suffix}" if valid else None
        for text, valid in zip(texts, array.is_valid().to_pylist(), strict=True)
    ]


def _times(array: pa.Array) -> Values:
    return list(array.cast(pa.string()).to_pylist())


def _durations(array: pa.Array) -> Values:
    return list(array.cast(pa.int64()).to_pylist())


def _structs(array: pa.StructArray) -> Values:
    names = [field.name for field in array.type]
    children = [json_values(child) for child in array.flatten()]
    rows = zip(*children, strict=True)
    return [
        dict(zip(names, row, strict=True)) if valid else None
        for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)
    ]


def _lists(array: pa.Array) -> Values:
    items = iter(json_values(pc.list_flatten(array)))
    lengths = pc.list_value_length(array).to_pylist()
    return [None if length is None else list(islice(items, length)) for length in lengths]


def _maps(array: pa.MapArray) -> Values:
    pair = pa.struct([pa.field("key", array.type.key_type), pa.field("value", array.type.item_type)])
    return _lists(array.cast(pa.list_(pair)))


_CONVERSIONS: Final[tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Values]], ...]] = (
    (is_string, _strings),
    (lambda kind: isinstance(kind, pa.UuidType), _as_text),
    (lambda kind: isinstance(kind, pa.BaseExtensionType), _storage),
    (kinds.is_dictionary, _decoded),
    (is_binary, _base64),
    (kinds.is_fixed_size_binary, _base64),
    (kinds.is_decimal, _decimals),
    (kinds.is_date, _dates),
    (kinds.is_timestamp, _timestamps),
    (kinds.is_time, _times),
    (kinds.is_duration, _durations),
    (kinds.is_map, _maps),
    (is_list, _lists),
    (kinds.is_struct, _structs),
)
