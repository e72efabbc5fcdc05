"""Lists of JSON: an array of objects, lines of objects, or an object of columns, as batches of rows.

Which of them a file is shows in its first characters. Arrays and lines are streamed; an object of columns
(`{"url": [...]}`, or as pandas writes it `{"url": {"0": ...}}`) has to be read whole. An element that is a
string is a URL; any other that is no object, and a line that is no JSON, is a malformed row: its text
stands in `url` behind `MALFORMED_MARK`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import orjson
import pyarrow as pa

from turbo_fetch import _native
from turbo_fetch.errors import InputError
from turbo_fetch.plan.columns import Columns, note_misfits
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.lists import readable
from turbo_fetch.plan.stream import ByteStream
from turbo_fetch.plan.text_lists import BATCH_ROWS, MAX_LINE, whole_lines
from turbo_fetch.plan.text_values import has_surrogate, texts
from turbo_fetch.plan.type_inference import typed_values
from turbo_fetch.plan.urls import MALFORMED_MARK

MAX_WHOLE_BYTES: Final = 512 << 20
MAX_VALUES: Final = 1 << 22
"""Values in a line, each of which is three bytes of text and some seventy of memory."""
MAX_WHOLE_VALUES: Final = 1 << 24

_SHOWN_CHARACTERS: Final = 2000
_HEAD_BYTES: Final = 1 << 20
"""Within which a list shows what it is."""

Row = Mapping[str, Any]


def read_json(
    stream: ByteStream, are_lines: bool, columns: Columns, schema: pa.Schema, notes: ListNotes
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a json or jsonl list; `are_lines` says that objects are lines, not columns.

    `schema` gives the types of kept columns; what does not fit is null, and noted. Raises InputError if the text is no
    JSON list.
    """
    for rows in row_batches(stream, are_lines, columns, notes):
        shown = [texts([row.get(name) for row in rows]) for name in columns.texts]
        kept = []
        for name, new in columns.keep.items():
            values = [row.get(name) for row in rows]
            typed, misfits = typed_values(values, schema.field(new).type)
            note_misfits(notes, name, values, typed, misfits)
            kept.append(typed)
        yield pa.record_batch([*shown, *kept], schema=schema)


def row_batches(
    stream: ByteStream, are_lines: bool, columns: Columns, notes: ListNotes
) -> Iterator[Sequence[Row]]:
    """Yield the rows of a json or jsonl list as objects, some at a time."""
    blocks = stream.text_blocks()
    head = b""
    for block in blocks:
        head += block
        text = head.strip()
        if b"\n" in text or len(text) > _HEAD_BYTES:
            break
    blocks = chain([head], blocks)
    if _is_array(head.strip()):
        lines = _lines(_array_lines(blocks, stream.url), stream.url)
    elif are_lines or not head.lstrip().startswith(b"{"):
        lines = _lines(blocks, stream.url)
    else:
        yield from _whole(b"".join(_limited(blocks, stream.url)), columns, notes)
        return
    yield from _parsed(lines, columns, notes)


def _is_array(head: bytes) -> bool:
    """Whether a text that begins like this is an array, and not lines of which the first is none."""
    first, _, rest = head.partition(b"\n")
    is_followed_by_object = rest.lstrip().startswith(b"{")
    return head.startswith(b"[") and not (is_followed_by_object and first.rstrip()[-1:] not in b"[,:{")


def _array_lines(blocks: Iterator[bytes], file: str) -> Iterator[bytes]:
    array = _native.JsonArray()
    with readable(file):
        for block in blocks:
            yield array.feed(block)
        array.finish()


def _lines(blocks: Iterator[bytes], file: str) -> Iterator[list[bytes]]:
    """Yield the lines that hold anything, some at a time."""
    for lines in whole_lines(blocks, b"\n", file):
        yield [line for line in lines if line and not line.isspace()]


def _parsed(groups: Iterator[list[bytes]], columns: Columns, notes: ListNotes) -> Iterator[list[Row]]:
    held: list[bytes] = []
    """The first lines, while none of them is a row."""
    is_list = False
    for group in groups:
        lines, held = [*held, *group], []
        for start in range(0, len(lines), BATCH_ROWS):
            batch = lines[start : start + BATCH_ROWS]
            rows = [_row(line, columns) for line in batch]
            is_list = is_list or any(row is not None for row in rows)
            if not is_list:
                if len(batch) == BATCH_ROWS or sum(map(len, batch)) > MAX_LINE:
                    raise _no_list(notes.file, batch[0])
                held = batch
                continue
            _note(rows, batch, columns, notes)
            yield [
                _malformed(line, columns.url) if row is None else row
                for line, row in zip(batch, rows, strict=True)
            ]
    if held:
        raise _no_list(notes.file, held[0])


def _no_list(file: str, start: bytes) -> InputError:
    shown = start[:60].decode("utf-8", "replace")
    return InputError(f"{file}: this is not a list of JSON objects; it starts with {shown!r}")


def _note(rows: Sequence[Row | None], lines: Sequence[bytes], columns: Columns, notes: ListNotes) -> None:
    malformed = [index for index, row in enumerate(rows) if row is None]
    damaged = [
        index
        for index, (row, line) in enumerate(zip(rows, lines, strict=True))
        if row is not None and _is_damaged(row, line, columns)
    ]
    for kind, found in (("malformed", malformed), ("undecodable", damaged)):
        if found:
            notes.add_at(kind, len(found), found[0])


def _is_damaged(row: Row, line: bytes, columns: Columns) -> bool:
    """Whether some text of a row is not as it stands in the list: U+FFFD for bytes, or half a surrogate pair."""
    texts_of_row = [value for name in columns.wanted if isinstance(value := row.get(name), str)]
    return any(
        not text.isascii() and (("\ufffd" in text and not _is_utf8(line)) or has_surrogate(text))
        for text in texts_of_row
    )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _row(line: bytes, columns: Columns) -> Row | None:
    """Return a line as a row, None if it is malformed."""
    if len(line) > MAX_VALUES and _values(line) > MAX_VALUES:
        return None
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        # Python's own parser takes NaN, lone surrogates and what is not UTF-8, which writers do leave.
        value = _tolerant(line)
    if isinstance(value, dict):
        return _tolerant(line) if _has_rounded(value, columns) else value
    if isinstance(value, str):
        return {columns.url: value}
    return None


def _values(text: bytes) -> int:
    """Return how many values a text of JSON has at most."""
    return text.count(b",") + text.count(b"{") + text.count(b"[")


def _tolerant(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _has_rounded(row: Row, columns: Columns) -> bool:
    """Whether a kept value may be an integer that orjson has rounded, since it has more than 64 bits."""
    return any(type(value := row.get(name)) is float and abs(value) >= 2**63 for name in columns.keep)


def _malformed(line: bytes, url_column: str) -> Row:
    return {url_column: MALFORMED_MARK + line.decode("utf-8", "replace")[:_SHOWN_CHARACTERS]}


def _limited(blocks: Iterator[bytes], file: str) -> Iterator[bytes]:
    total_bytes = 0
    for block in blocks:
        total_bytes += len(block)
        if total_bytes > MAX_WHOLE_BYTES:
            raise InputError(
                f"{file}: an object of columns cannot be streamed, and this one has more than "
                f"{MAX_WHOLE_BYTES:,} bytes; expected an array of objects, or jsonl"
            )
        yield block


def _whole(text: bytes, columns: Columns, notes: ListNotes) -> Iterator[Sequence[Row]]:
    """Yield the rows of a text that starts with an object: one of columns, a row, or lines of rows."""
    is_large = _values(text) > MAX_WHOLE_VALUES
    if is_large and b"\n" not in text.strip():
        raise InputError(
            f"{notes.file}: an object of columns cannot be streamed, and this one has more than "
            f"{MAX_WHOLE_VALUES:,} values; expected an array of objects, or jsonl"
        )
    value = None if is_large else _parsed_whole(text)
    if value is None:
        yield from _parsed(_lines(iter([text]), notes.file), columns, notes)
        return
    columns.locate(list(value), notes.file)
    if not isinstance(value[columns.url], dict | list):
        yield [value]
        return
    keys, lists = _columns_of(value, columns, notes.file)
    if any(_has_rounded({name: item}, columns) for name in columns.keep for item in lists[name]):
        keys, lists = _columns_of(json.loads(text), columns, notes.file)
    for start in range(0, len(keys), BATCH_ROWS):
        part = range(start, min(start + BATCH_ROWS, len(keys)))
        yield [{name: lists[name][at] for name in columns.wanted} for at in part]


def _parsed_whole(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _columns_of(value: Row, columns: Columns, file: str) -> tuple[Sequence[Any], dict[str, list[Any]]]:
    """Return the row keys of an object of columns, and its wanted columns as lists in that order."""
    first = value[columns.url]
    keys = list(first) if isinstance(first, dict) else range(len(first))
    lists = {}
    for name in columns.wanted:
        column = value[name]
        if isinstance(column, dict) and isinstance(first, dict):
            lists[name] = [column.get(key) for key in keys]
        elif isinstance(column, list) and len(column) == len(keys):
            lists[name] = column
        else:
            raise InputError(
                f"{file}: column {name!r} does not have one value for each of the {len(keys)} URLs"
            )
    return keys, lists
