"""Lists of lines and of cells: txt, csv and tsv as batches of rows.

- txt: one URL per line, the line as it is: commas and quotes are data. Blank lines are no rows.
- csv, tsv: RFC 4180, read leniently (see `rust/urls/src/csv.rs`): a row with too few fields has nulls, a
  malformed one keeps its text behind `MALFORMED_MARK` in `url`, empty lines are no rows.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import AnyStr, Final

import pyarrow as pa

from turbo_fetch import _native
from turbo_fetch.errors import InputError
from turbo_fetch.plan.columns import Columns, note_misfits
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.lists import readable
from turbo_fetch.plan.stream import ByteStream
from turbo_fetch.plan.type_inference import typed_cells

BATCH_ROWS: Final = 16_384
MAX_LINE: Final = 64 << 20
"""Bytes or characters of a line."""
DELIMITERS: Final = {"csv": ",", "tsv": "\t"}
SEPARATORS: Final = (",", ";", "\t", "|")
"""What programs write between fields, whatever they call the file."""

_REPLACEMENT: Final = "\ufffd"


def read_lines(
    stream: ByteStream, columns: Columns, schema: pa.Schema, notes: ListNotes
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a txt list; InputError if more than the URL is asked for, or a line is too long."""
    columns.locate([columns.url], stream.url)
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    texts = (decoder.decode(block, final=is_last) for block, is_last in _with_last(stream.text_blocks()))
    for lines in whole_lines(texts, "\n", stream.url):
        yield from _line_batches(lines, schema, notes)


def whole_lines(blocks: Iterable[AnyStr], end: AnyStr, file: str) -> Iterator[list[AnyStr]]:
    """Yield the lines of a text, some at a time; InputError if one is longer than `MAX_LINE`.

    A line of many blocks is put together once.
    """
    begun: list[AnyStr] = []
    length = 0
    for block in chain(blocks, [end]):
        begun.append(block)
        length += len(block)
        if end in block:
            lines = end[:0].join(begun).split(end)
            begun = [lines.pop()]
            length = len(begun[0])
            yield lines
        if length > MAX_LINE:
            raise InputError(f"{file}: a line or element is longer than {MAX_LINE:,} bytes")


def _line_batches(lines: list[str], schema: pa.Schema, notes: ListNotes) -> Iterator[pa.RecordBatch]:
    urls = [line for line in lines if line and not line.isspace()]
    for start in range(0, len(urls), BATCH_ROWS):
        batch = urls[start : start + BATCH_ROWS]
        damaged = [row for row, url in enumerate(batch) if _REPLACEMENT in url]
        if damaged:
            notes.add_at("undecodable", len(damaged), damaged[0])
        yield pa.record_batch([pa.array(batch, pa.string())], schema=schema)


def read_cells(
    stream: ByteStream, delimiter: str, columns: Columns, schema: pa.Schema, notes: ListNotes
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a csv or tsv list; InputError if a column is missing, or the file is no table.

    `schema` gives the types of kept columns; what does not fit is null, and noted.
    """
    for cells in cell_batches(stream, delimiter, columns, notes):
        kept = []
        for name, new in columns.keep.items():
            typed, misfits = typed_cells(cells.column(name), schema.field(new).type)
            note_misfits(notes, name, cells.column(name), typed, misfits)
            kept.append(typed)
        yield pa.record_batch([*(cells.column(name) for name in columns.texts), *kept], schema=schema)


def cell_batches(
    stream: ByteStream, delimiter: str, columns: Columns, notes: ListNotes
) -> Iterator[pa.RecordBatch]:
    """Yield batches of the wanted columns as strings, of fields with `delimiter` between if `columns` names none."""
    delimiter = columns.separator or delimiter
    reader = _native.CsvReader(delimiter, columns.quoting)
    indices: list[int] | None = None
    if columns.header:
        reader.feed(f"{delimiter.join(columns.header)}\n".encode(), is_last=False)
    for block, is_last in _with_last(stream.text_blocks()):
        reader.feed(block, is_last=is_last)
        if indices is None:
            with readable(stream.url):
                names = reader.header()
            if not names:
                continue
            indices = columns.locate(names, stream.url)
        while (cells := _read(reader, indices, columns, stream.url)).num_rows:
            for oddity, rows, line in reader.take_notes():
                notes.add(oddity, rows, line - bool(columns.header))
            yield cells


def _read(reader: _native.CsvReader, indices: list[int], columns: Columns, file: str) -> pa.RecordBatch:
    with readable(file):
        batch = reader.read(indices, BATCH_ROWS)
    return batch.rename_columns(list(columns.wanted))


def _with_last(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    for block in blocks:
        yield block, False
    yield b"", True
