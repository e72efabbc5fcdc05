"""The columns of a list that a job reads, and how they become the columns `url`, `caption` and kept ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from turbo_fetch.errors import InputError
from turbo_fetch.kept_types import kept_type, kept_values, valid_texts
from turbo_fetch.schema import BOXES, EXPECTED_HASH, PEER_RESULT_COLUMNS
from turbo_fetch.spec import InputSpec

SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True)
class Columns:
    """Names, in the list, of the columns to read."""

    url: str
    caption: str | None = None
    keep: tuple[str, ...] = ()
    hash: str | None = None
    hash_kind: str = "sha256"
    boxes: str | None = None

    @staticmethod
    def of(spec: InputSpec) -> Columns:
        """Return the columns that the spec names; InputError if two would share a name in the dataset."""
        columns = Columns(
            spec.url_column,
            spec.caption_column,
            tuple(dict.fromkeys(spec.keep_columns)),
            spec.hash_column,
            spec.hash_kind,
            spec.boxes_column,
        )
        names = [EXPECTED_HASH.get(name, name) for name in columns.text_fields]
        taken = {*names, BOXES, *EXPECTED_HASH, *(f.name for f in PEER_RESULT_COLUMNS)}
        if clashes := [name for name in columns.keep if name in taken]:
            raise InputError(
                f"keep_columns names {', '.join(map(repr, clashes))}, which the dataset has already; "
                "expected other names"
            )
        return columns

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the columns that become text, in the order of `text_fields`."""
        return tuple(name for name in (self.url, self.caption, self.hash, self.boxes) if name is not None)

    @property
    def text_fields(self) -> tuple[str, ...]:
        """Names of the texts in the rows: `url`, then `caption`, the expected hash and boxes if there are such."""
        named = {
            "caption": self.caption,
            f"expected {self.hash_kind}": self.hash,
            BOXES: self.boxes,
        }
        return ("url", *(name for name, column in named.items() if column is not None))

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names to read, each once, the URL first."""
        return tuple(dict.fromkeys([*self.texts, *self.keep]))

    def locate(self, names: Sequence[str], file: str) -> list[int]:
        """Return where the wanted columns are among `names`, those of the file.

        Raises InputError for one that is missing, naming the nearest, or that is there twice.
        """
        for name in self.wanted:
            if name not in names:
                raise InputError(f"{file}: there is no column {name!r}{_nearest(name, names)}")
            if names.count(name) > 1:
                raise InputError(f"{file}: there are {names.count(name)} columns {name!r}; expected one")
        return [names.index(name) for name in self.wanted]

    def schema(self, kept: pa.Schema) -> pa.Schema:
        """Return the schema of the rows, taking the types of kept columns from `kept`."""
        texts = [pa.field(name, pa.string()) for name in self.text_fields]
        return pa.schema([*texts, *(pa.field(name, kept_type(kept.field(name).type)) for name in self.keep)])

    def rows(self, batch: pa.RecordBatch, schema: pa.Schema, file: str) -> pa.RecordBatch:
        """Return a batch, which has the wanted columns, as rows of `schema`.

        Values of kept columns that do not fit their type become null. Raises InputError where URLs or
        captions are of a type that has no text.
        """
        named = zip(self.text_fields, self.texts, strict=True)
        arrays = [
            (_json if field == BOXES else as_text)(batch.column(name), f"{file}: column {name!r}")
            for field, name in named
        ]
        kept = [_as_kept(batch.column(name), schema.field(name).type) for name in self.keep]
        return pa.record_batch([*arrays, *kept], schema=schema)


def _json(array: pa.Array, what: str) -> pa.Array:
    """Return lists as their JSON, and text, which is JSON already, as it is."""
    if not pa.types.is_nested(array.type):
        return as_text(array, what)
    values = array.to_pylist()
    return pa.array(
        [None if value is None else orjson.dumps(value).decode() for value in values], pa.string()
    )


def _nearest(name: str, names: Sequence[str]) -> str:
    by_lower = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    shown = ", ".join(repr(other[:40]) for other in names[:SHOWN_NAMES]) or "none"
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return (
        f"; did you mean {by_lower[near[0]]!r}? Columns: {shown}{more}"
        if near
        else f". Columns: {shown}{more}"
    )


def as_text(array: pa.Array, what: str) -> pa.Array:
    """Return an array of any scalar type as strings of valid UTF-8; bytes that are not become U+FFFD.

    Raises InputError, naming `what`, for a nested type.
    """
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        raise InputError(f"{what} is of type {kind}; expected strings")
    if is_string(kind):
        return valid_texts(array.cast(pa.string()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.array([_decoded(value) for value in array.to_pylist()], pa.string())
    return array.cast(pa.string())


def is_string(kind: pa.DataType) -> bool:
    """Return whether the type is one of Arrow's three string types."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _as_kept(array: pa.Array, kind: pa.DataType) -> pa.Array:
    array = valid_texts(fitted(array, kept_type(array.type), kept_values))
    return array if array.type == kind else fitted(array, kind, lambda part: part.cast(kind))


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
