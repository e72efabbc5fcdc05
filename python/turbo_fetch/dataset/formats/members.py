"""What stands beside an image: its metadata as JSON, its caption as text.

JSON of Arrow values. Every sample has the same keys, and a value has the type of its column or is null:

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
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from turbo_fetch.arrow.binaries import blobs
from turbo_fetch.arrow.kept_types import is_binary, is_list, is_string
from turbo_fetch.dataset.formats.images import sized
from turbo_fetch.dataset.samples import Samples

TEXTS: Final = frozenset({"json", "txt"})
"""Extensions of members that are no images."""

Values = list[Any]


class Member(NamedTuple):
    """A file of a sample."""

    name: str
    content: bytes | memoryview


def members(samples: Samples, extension: Callable[[str | None], str]) -> Iterator[Member]:
    """Yield the members of the samples that have an image, those of one sample in name order.

    `extension` gives the image's, from the format of the original; those of further sizes are `128.jpg`. Contents are
    views, not copies.
    """
    metadata = samples.metadata
    keys, formats = metadata.column("key").to_pylist(), samples.original_format.to_pylist()
    texts = text_members(metadata)
    # Digits come before letters.
    sizes = [*sorted(samples.more), ""]
    images = zip(*(blobs(samples.images[size]) for size in sizes), strict=True)
    rows = zip(keys, formats, json_members(metadata), images, strict=True)
    for key, original_format, as_json, contents in rows:
        text = None if texts is None else next(texts)
        if contents[-1] is not None:
            kind = extension(original_format)
            for size, content in zip(sizes, contents, strict=True):
                assert content is not None
                yield Member(f"{key}.{sized(kind, size)}", content)
            yield Member(f"{key}.json", as_json)
            if text is not None:
                yield Member(f"{key}.txt", text)


def json_members(metadata: pa.RecordBatch) -> Iterator[bytes]:
    """Yield the JSON object of each row: compact UTF-8, keys in the order of the columns."""
    names = metadata.schema.names
    columns = [json_values(column) for column in metadata.columns]
    for row in zip(*columns, strict=True):
        yield orjson.dumps(dict(zip(names, row, strict=True)))


def text_members(metadata: pa.RecordBatch) -> Iterator[bytes] | None:
    """Yield the caption of each row as UTF-8, empty where it is null; None if there is no caption column.

    A caption that is not a string is written as its JSON.
    """
    if "caption" not in metadata.schema.names:
        return None
    return map(text_bytes, json_values(metadata.column("caption")))


def text_bytes(value: Any) -> bytes:
    """Return a JSON value as text: a string as it is, null as an empty one, all else as JSON."""
    if value is None:
        return b""
    return value.encode() if isinstance(value, str) else orjson.dumps(value)


def json_values(array: pa.Array) -> Values:
    """Return the values as Python objects that orjson writes as described above."""
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
