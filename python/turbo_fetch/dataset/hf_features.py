"""Features of a dataset, as Hugging Face `datasets` has them in the front matter of a card: pure functions.

Without them `datasets` takes the types of webdataset shards from the first five samples, and fails where a value that
was null in all of them is there later. https://huggingface.co/docs/datasets/loading#local-and-remote-files
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from turbo_fetch.arrow.kept_types import is_list, kept_type, rebuilt

IMAGE: Final = "image"
"""What stands for the type of images."""

Feature = tuple[str, pa.DataType | str]
"""A name, and its type or `IMAGE`."""

_PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAYS: Final = (-719_162, 2_932_896)
_SECONDS: Final = (-62_135_596_800, 253_402_300_799)
_SPAN_SECONDS: Final = (-86_399_999_913_600, 86_399_999_999_999)
"""What `datetime` can hold: the years 1 to 9999, counted from 1970, and spans of 999,999,999 days."""

_NAMES: Final = {
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.date32(): "date32",
}


def table_features(columns: pa.Schema, images: Sequence[str]) -> list[Feature]:
    """Return the features of the rows of a table, of which the columns `images` have images."""
    return [(column.name, IMAGE if column.name in images else kept_type(column.type)) for column in columns]


def json_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column after it was JSON; see :mod:`turbo_fetch.dataset.formats.members`."""
    return from_python(with_leaves(kept_type(kind), _json_leaf))


def from_python(kind: pa.DataType) -> pa.DataType:
    """Return a kept type as `datasets` can have it where it makes tables of Python objects.

    It stops at int64 there, so that larger numbers have to be text.
    """
    return with_leaves(kind, lambda leaf: pa.string() if kinds.is_uint64(leaf) else leaf)


def values_from_python(array: pa.Array) -> pa.Array:
    """Return values of a kept type in the type that `from_python` says, null where Python has no such moment."""
    kind = from_python(array.type)
    if kinds.is_nested(kind):
        return rebuilt(array, kind, values_from_python)
    return _within_python(array) if kinds.is_temporal(kind) else array.cast(kind)


def _within_python(array: pa.Array) -> pa.Array:
    """Return moments and spans with nulls for those that `datetime` cannot hold: years are 1 to 9999 there."""
    kind = array.type
    if kinds.is_time(kind):
        return array
    days = kinds.is_date(kind)
    least, most = _DAYS if days else _SPAN_SECONDS if kinds.is_duration(kind) else _SECONDS
    counts = array.cast(pa.int32() if days else pa.int64())
    counts = counts if days else pc.divide(counts, _PER_SECOND[kind.unit])
    fits = pc.and_(pc.greater_equal(counts, least), pc.less_equal(counts, most))
    return pc.if_else(fits, array, pa.scalar(None, kind))


def with_leaves(kind: Any, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a kept type in which all that is neither a struct nor a list was changed."""
    if kinds.is_struct(kind):
        return pa.struct([(field.name, with_leaves(field.type, change)) for field in kind])
    if kinds.is_large_list(kind):
        return pa.large_list(with_leaves(kind.value_type, change))
    if is_list(kind):
        length = kind.list_size if kinds.is_fixed_size_list(kind) else -1
        return pa.list_(with_leaves(kind.value_type, change), length)
    return change(kind)


def _json_leaf(kind: pa.DataType) -> pa.DataType:
    if kinds.is_duration(kind):
        return pa.int64()
    is_itself = (
        kinds.is_null(kind) or kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_floating(kind)
    )
    return kind if is_itself else pa.string()


def yaml_features(features: Iterable[Feature], indent: str) -> Iterator[str]:
    """Yield the lines of a YAML list of features, of which each line begins with `indent`."""
    for name, kind in features:
        yield f"{indent}- name: {quoted(name)}"
        yield from _yaml_type(kind, f"{indent}  ")


def quoted(text: str) -> str:
    """Return a YAML scalar that is read as `text`, whatever is in it."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _yaml_type(kind: Any, indent: str) -> Iterator[str]:
    # `datasets` goes by the first key.
    if kind == IMAGE:
        yield f"{indent}dtype: {IMAGE}"
    elif kinds.is_struct(kind):
        yield f"{indent}struct:"
        yield from yaml_features([(field.name, field.type) for field in kind], indent)
    elif is_list(kind):
        yield f"{indent}{'large_list' if kinds.is_large_list(kind) else 'list'}:"
        yield from _yaml_type(kind.value_type, f"{indent}  ")
        if kinds.is_fixed_size_list(kind):
            yield f"{indent}length: {kind.list_size}"
    else:
        yield f"{indent}dtype: {quoted(_NAMES.get(kind, str(kind)))}"


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"
