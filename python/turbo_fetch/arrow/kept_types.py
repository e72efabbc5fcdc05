"""Types of the list's columns in a dataset: those that pyarrow, pandas, Polars, DuckDB and Hugging Face all read.

A list may have any Arrow type. Most are kept; of the others, each is kept as the nearest that all of them read, with
the same values:

- dictionary-encoded: what they encode; views of strings, binary and lists: plain ones
- maps: lists of structs with `key` and `value`
- extension types: what they are stored as; UUIDs: strings in their canonical form; bool8: booleans
- decimals: decimal128; what that cannot hold (over 38 digits), and Parquet cannot (a scale below 0 or beyond the
  precision): strings, exact
- timestamps with a time zone: the same moments in UTC
- date64: date32; fields that may not be null: fields that may

A type is then the same in every format, and after any export. :func:`unkept` says what is wrong with a type that has
no such form.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as kinds

MOST_DIGITS: Final = 38
"""Of a decimal128."""

_PLAIN: Final = {
    pa.string_view(): pa.string(),
    pa.binary_view(): pa.binary(),
    pa.binary(0): pa.binary(),
    pa.date64(): pa.date32(),
}


def kept_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a dataset has values of `kind`; applied to its own result it changes nothing."""
    if isinstance(kind, pa.BaseExtensionType):
        special = {pa.UuidType: pa.string(), pa.Bool8Type: pa.bool_()}.get(type(kind))
        return kept_type(kind.storage_type) if special is None else special
    if kinds.is_dictionary(kind):
        return kept_type(kind.value_type)
    if kinds.is_map(kind):
        return pa.list_(kept_type(_pair(kind)))
    if kinds.is_struct(kind):
        return pa.struct([pa.field(field.name, kept_type(field.type)) for field in kind])
    if is_list(kind):
        return _kept_list(kind)
    if kinds.is_decimal(kind):
        fits = kind.precision <= MOST_DIGITS and 0 <= kind.scale <= kind.precision
        return pa.decimal128(kind.precision, kind.scale) if fits else pa.string()
    if kinds.is_timestamp(kind):
        return pa.timestamp(kind.unit, None if kind.tz is None else "UTC")
    return _PLAIN.get(kind, kind)


def kept_values(array: pa.Array) -> pa.Array:
    """Return the same values in the type that `kept_type` says.

    Raises ArrowInvalid for a timestamp in seconds that is none in milliseconds, which is how Parquet has it.
    """
    kind, kept = array.type, kept_type(array.type)
    if kinds.is_timestamp(kind) and kind.unit == "s":
        array.cast(pa.timestamp("ms", kind.tz))
    if kind == kept and not (kinds.is_nested(kind) and "timestamp[s" in str(kind)):
        return array
    if isinstance(kind, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in array.to_pylist()], kept)
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.Bool8Type):
        return kept_values(array.storage)
    if kinds.is_dictionary(kind):
        return kept_values(array.dictionary_decode())
    if kinds.is_map(kind):
        return kept_values(array.cast(pa.list_(_pair(kind))))
    if kinds.is_struct(kind) or is_list(kind):
        return rebuilt(array, kept, kept_values)
    if kinds.is_decimal(kind) and kinds.is_string(kept):
        return pa.array([None if value is None else format(value, "f") for value in array.to_pylist()], kept)
    # A date64 is a whole number of days by its definition; a rest that it has all the same is dropped.
    return array.cast(kept, safe=not kinds.is_date(kind))


def valid_texts(array: pa.Array) -> pa.Array:
    """Return values of a kept type with U+FFFD for what is not UTF-8 in their strings, at any depth.

    Files may claim that bytes are UTF-8, which Arrow does not check when it reads, and some readers do.
    """
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        kind = array.type
        if kinds.is_struct(kind) or is_list(kind):
            return rebuilt(array, kind, valid_texts)
        return valid_utf8(array)[0] if is_string(kind) else array
    return array


def valid_utf8(array: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """Return strings or bytes as strings with U+FFFD for what is not UTF-8, and which had such, None if none had."""
    try:
        if not is_string(array.type):
            return array.cast(pa.large_string()), None
        array.validate(full=True)
        return array, None
    except pa.ArrowInvalid:
        as_bytes = array.cast(pa.large_binary())
        texts = [None if value is None else value.decode(errors="replace") for value in as_bytes.to_pylist()]
        repaired = pa.array(texts, pa.large_string())
        changed = pc.fill_null(pc.not_equal(repaired.cast(pa.large_binary()), as_bytes), False)
        return repaired.cast(array.type) if is_string(array.type) else repaired, changed


def rebuilt(array: pa.Array, kind: Any, convert: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Return structs or lists of the type `kind` whose children are those of `array`, converted."""
    # Not by a cast: that of Arrow 26 from views to lists drops values.
    if kinds.is_struct(kind):
        children = [convert(child) for child in array.flatten()]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
    if kinds.is_fixed_size_list(kind):
        values = array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(convert(values), type=kind, mask=array.is_null())
    values = convert(pc.list_flatten(array))
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    ends = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    lists = pa.LargeListArray if kinds.is_large_list(kind) else pa.ListArray
    offsets = pa.array(ends.astype(np.int64 if kinds.is_large_list(kind) else np.int32))
    return lists.from_arrays(offsets, values, type=kind, mask=array.is_null())


def is_string(kind: pa.DataType) -> bool:
    """Return whether the type is one of Arrow's three string types."""
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Return whether the type is one of Arrow's three types of bytes of any length."""
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Return whether the type is one of Arrow's five types of lists."""
    return bool(
        kinds.is_list(kind)
        or kinds.is_large_list(kind)
        or kinds.is_fixed_size_list(kind)
        or kinds.is_list_view(kind)
        or kinds.is_large_list_view(kind)
    )


def type_in_parquet(kind: pa.DataType) -> pa.DataType:
    """Return the type that values of `kind` have once they were in Parquet, which has no seconds."""
    sink = io.BytesIO()
    pq.write_table(pa.schema([("x", kept_type(kind))]).empty_table(), sink)
    return kept_type(pq.read_schema(sink).field("x").type)


def unkept(kind: pa.DataType) -> str | None:
    """Return why no dataset can have values of this type, None if one can."""
    repeated = _repeated_field(kind)
    if repeated is not None:
        return f"two of its fields have the name {repeated!r}"
    try:
        type_in_parquet(kind)
    except (pa.ArrowException, OSError):
        return "Parquet cannot hold it"
    return None


def _pair(kind: pa.MapType) -> pa.StructType:
    return pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])


def _kept_list(kind: Any) -> pa.DataType:
    value = kept_type(kind.value_type)
    if kinds.is_large_list(kind) or kinds.is_large_list_view(kind):
        return pa.large_list(value)
    # Readers do not agree on fixed-size lists of no values.
    length = kind.list_size if kinds.is_fixed_size_list(kind) and kind.list_size else -1
    return pa.list_(value, length)


def _repeated_field(kind: pa.DataType) -> str | None:
    if isinstance(kind, pa.BaseExtensionType):
        return _repeated_field(kind.storage_type)
    if kinds.is_struct(kind):
        names: list[str] = [field.name for field in kind]
        for name in names:
            if names.count(name) > 1:
                return name
    if kinds.is_dictionary(kind):
        return _repeated_field(kind.value_type)
    fields = [kind.field(place) for place in range(kind.num_fields)]
    return next((found for field in fields if (found := _repeated_field(field.type)) is not None), None)
