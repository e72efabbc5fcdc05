"""The columns of a list that a job reads, and how they become the columns `url`, `caption` and kept ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.kept_types import is_binary, is_string, kept_type, valid_utf8
from turbo_fetch.arrow.python_values import python_values
from turbo_fetch.arrow.schemas import (
    BOXES,
    EXPECTED_HASH,
    IMAGE_AT,
    IMG2DATASET_RESULT_COLUMNS,
    RECORD,
    UNSTORED,
)
from turbo_fetch.errors import InputError
from turbo_fetch.plan.condition import Condition
from turbo_fetch.plan.list_notes import MISFIT, ListNotes
from turbo_fetch.plan.text_values import as_text
from turbo_fetch.plan.type_inference import DECLARED, typed_column
from turbo_fetch.spec import InputSpec, Quoting
from turbo_fetch.spec.toml import quoted

SHOWN_NAMES = 20
HIDDEN = "where "
"""Starts the name, in the rows, of a column that is read for `fetch.input.where` alone."""

TAKEN = frozenset({*UNSTORED, *EXPECTED_HASH, *(column.name for column in IMG2DATASET_RESULT_COLUMNS)})
"""Names of columns that every dataset has already."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names, in the list, of the columns to read, and how they are read. It can be pickled."""

    url: str
    caption: str | None = None
    keep: Mapping[str, str] = field(default_factory=dict)
    """Kept columns, and their names in the dataset."""
    hash: str | None = None
    hash_kind: str = "sha256"
    boxes: str | None = None
    declared: Mapping[str, pa.DataType] = field(default_factory=dict)
    """Types of kept columns that the spec names, by the names in the list."""
    quoting: Quoting = "auto"
    is_strict: bool = False
    record: tuple[str, ...] = ()
    """Columns of file, offset and length of records in archives."""
    image: str | None = None
    """Column of the images themselves, which is not read with the rows: these say where it is."""
    header: tuple[str, ...] = ()
    """Names of all columns of csv and tsv files that have no line with them."""
    separator: str | None = None
    """What stands between the fields of csv and tsv files, if it is not what stands there as a rule."""

    @staticmethod
    def of(spec: InputSpec) -> Columns:
        """Return the columns that the spec names; InputError if two would share a name in the dataset."""
        columns = Columns(
            spec.url_column,
            spec.caption_column,
            spec.kept,
            spec.hash_column,
            spec.hash_kind,
            spec.boxes_column,
            {name: DECLARED[kind] for name, kind in spec.column_types.items()},
            spec.quoting,
            spec.strict,
            () if spec.warc is None else spec.warc.columns,
            spec.image_column,
            spec.column_names,
            spec.separator,
        )
        names = [EXPECTED_HASH.get(name, name) for name in columns.text_fields]
        refuse_clashes(columns.keep, {*names, *TAKEN})
        if spec.where is None:
            return columns
        asked = [name for name in Condition(spec.where).columns if name not in columns.named]
        return replace(columns, keep={**columns.keep, **{name: f"{HIDDEN}{name}" for name in asked}})

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the columns that become text, in the order of `text_fields`."""
        named = (self.url, self.caption, self.hash, self.boxes, *self.record)
        return tuple(name for name in named if name is not None)

    @property
    def text_fields(self) -> tuple[str, ...]:
        """Names of the texts in the rows: `url`, then `caption`, the expected hash and boxes if there are such."""
        named = {
            "caption": self.caption,
            f"expected {self.hash_kind}": self.hash,
            BOXES: self.boxes,
        }
        texts = ("url", *(name for name, column in named.items() if column is not None))
        return (*texts, *RECORD) if self.record else texts

    @property
    def named(self) -> dict[str, str]:
        """The names that columns of the list have in the rows; of one with several, the one with its own type."""
        return {**dict(zip(self.texts, self.text_fields, strict=True)), **self.keep}

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names to read, each once, the URL first."""
        return tuple(dict.fromkeys([*self.texts, *self.keep]))

    def locate(self, names: Sequence[str], file: str) -> list[int]:
        """Return where the wanted columns are among `names`, those of the file.

        Raises InputError for one that is missing, naming the nearest, or that is there twice.
        """
        for name in self.wanted:
            if name not in names and self.is_named_by_place(names) and name == self.url:
                continue
            if name not in names:
                raise no_column(name, names, file)
            if names.count(name) > 1:
                raise InputError(f"{file}: {names.count(name)} columns are named {name!r}; expected one")
        return [names.index(name) for name in self.wanted if name in names]

    def is_named_by_place(self, names: Container[str]) -> bool:
        """Whether rows of a file with these columns are named by where their images are, for want of a URL.

        A column of URLs that the spec names has to be there.
        """
        return self.image is not None and self.url == "url" and self.url not in names

    def check_images(self, types: pa.Schema, file: str) -> None:
        """Raise InputError if the column of images of a table is missing, or of a type that cannot be used."""
        if self.image is None:
            return
        if self.image not in types.names:
            raise no_column(self.image, types.names, file)
        kind = types.field(self.image).type
        inner = kind.field("bytes").type if pa.types.is_struct(kind) and "bytes" in kind.names else kind
        if not is_binary(inner):
            raise InputError(
                f"{file}: column {self.image!r} is of type {kind}; expected images as binary, or as a struct of bytes "
                "and path"
            )

    def check_types(self, types: pa.Schema, file: str) -> None:
        """Raise InputError if URLs, captions, hashes or boxes of a table are of a type that cannot be used."""
        checks: tuple[tuple[str | None, str, Callable[[pa.DataType], bool]], ...] = (
            (self.url, "URLs as strings", _may_be_text),
            (self.caption, "strings", _is_plain),
            (self.hash, "hashes in hex, as strings", _may_be_text),
            (self.boxes, "lists of boxes, or their JSON as strings", _may_be_boxes),
            *((name, "file names, offsets and lengths", _is_plain) for name in self.record),
        )
        for name, expected, is_usable in checks:
            kind = types.field(name).type if name in types.names else None
            kind = kind.value_type if kind is not None and pa.types.is_dictionary(kind) else kind
            if kind is not None and not is_usable(kind):
                raise InputError(f"{file}: column {name!r} is of type {kind}; expected {expected}")

    def schema(self, kept: Mapping[str, pa.DataType]) -> pa.Schema:
        """Return the schema of the rows, `kept` being the types of kept columns by their names in the list."""
        names = (*self.text_fields, IMAGE_AT) if self.image is not None else self.text_fields
        texts = [pa.field(name, pa.string()) for name in names]
        types = {**kept, **{name: kind for name, kind in self.declared.items() if name in self.keep}}
        return pa.schema(
            [*texts, *(pa.field(new, kept_type(types[name])) for name, new in self.keep.items())]
        )

    def rows(self, batch: pa.RecordBatch, schema: pa.Schema, notes: ListNotes) -> pa.RecordBatch:
        """Return a batch, which has the wanted columns, as rows of `schema`.

        Values of kept columns that do not fit their type become null, which is noted. Raises InputError where URLs or
        captions are of a type that has no text.
        """
        named = zip(self.text_fields, self.texts, strict=True)
        arrays = []
        numbers = range(notes.rows_before, notes.rows_before + batch.num_rows)
        for text_field, name in named:
            if text_field == "url" and self.is_named_by_place(batch.schema.names):
                arrays.append(pa.array([f"{notes.file}#{number}" for number in numbers], pa.string()))
                continue
            array, changed = _text(batch.column(name), text_field, f"{notes.file}: column {name!r}")
            _note_undecodable(notes, changed)
            arrays.append(array)
        if self.image is not None:
            arrays.append(pa.array([f"{number} {notes.file}" for number in numbers], pa.string()))
        for name, new in self.keep.items():
            column = batch.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            kind = schema.field(new).type
            if is_string(column.type) or (is_binary(column.type) and is_string(kind)):
                column, changed = valid_utf8(column)
                _note_undecodable(notes, changed)
            typed, misfits = typed_column(column, kind)
            note_misfits(notes, name, column, typed, misfits)
            arrays.append(typed)
        return pa.record_batch(arrays, schema=schema)


def refuse_clashes(keep: Mapping[str, str], taken: set[str]) -> None:
    """Raise InputError if a kept column would have a name that the dataset has already, and say how to rename it."""
    if clashes := [new for new in keep.values() if new in taken]:
        raise InputError(
            f"keep_columns has {', '.join(map(repr, clashes))}, which the dataset has already; expected other names, "
            f"such as keep_columns = {without_clashes(keep, taken)}"
        )


def without_clashes(keep: Mapping[str, str], taken: Container[str]) -> str:
    """Return `keep_columns` as TOML, in which no column has a name that the dataset has already."""
    if not any(new in taken for new in keep.values()) and all(name == new for name, new in keep.items()):
        return f"[{', '.join(map(quoted, keep))}]"
    renamed = {name: f"list_{new}" if new in taken else new for name, new in keep.items()}
    return f"{{ {', '.join(f'{_key(name)} = {quoted(new)}' for name, new in renamed.items())} }}"


def _key(name: str) -> str:
    is_bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if is_bare else quoted(name)


def note_misfits(
    notes: ListNotes, name: str, values: Sequence[object], typed: pa.Array, misfits: pa.Array
) -> None:
    """Take note of the values of a batch that do not fit the type of their column, and which they are."""
    count = pc.sum(misfits).as_py() or 0
    if count:
        first = pc.index(misfits, pa.scalar(True)).as_py()
        shown = python_values(values.slice(first, 1))[0] if isinstance(values, pa.Array) else values[first]
        notes.add_at(f"{MISFIT}{name!r} is not a valid {typed.type}", count, first, shown)


def _note_undecodable(notes: ListNotes, changed: pa.Array | None) -> None:
    if changed is not None:
        notes.add_at("undecodable", pc.sum(changed).as_py(), pc.index(changed, pa.scalar(True)).as_py())


def _may_be_text(kind: pa.DataType) -> bool:
    return is_string(kind) or is_binary(kind) or bool(pa.types.is_null(kind))


def _is_plain(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(kind)


def _may_be_boxes(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return _may_be_text(kind) or bool(is_list)


def _text(array: pa.Array, text_field: str, what: str) -> tuple[pa.Array, pa.Array | None]:
    """Return a column as text; boxes that are lists as their JSON."""
    if text_field != BOXES or not pa.types.is_nested(array.type):
        return as_text(array, what)
    values = python_values(array)
    shown = [None if value is None else orjson.dumps(value, default=str).decode() for value in values]
    return pa.array(shown, pa.string()), None


def no_column(name: str, names: Sequence[str], file: str) -> InputError:
    """Return the error that a column is missing, which names the nearest of those that are there."""
    return InputError(f"{file}: there is no column {name!r}{_nearest(name, names)}")


def _nearest(name: str, names: Sequence[str]) -> str:
    # One name with all of them.
    separator = next((each for each in ";\t|," if len(names) == 1 and each in names[0]), None)
    if separator is not None:
        return (
            f"; its only one is {names[0][:80]!r}. If {separator!r} is between its fields, set fetch.input.separator = "
            f"{quoted(separator)}"
        )
    by_lower = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    shown = ", ".join(repr(other[:40]) for other in names[:SHOWN_NAMES]) or "none"
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return (
        f"; did you mean {by_lower[near[0]]!r}? Columns: {shown}{more}"
        if near
        else f". Columns: {shown}{more}"
    )
