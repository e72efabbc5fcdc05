"""Lists of lines and of cells: txt, csv and tsv as batches of rows.

- txt: one URL per line, the line as it is: commas and quotes are data. Blank lines are no rows.
- csv, tsv: RFC 4180, read leniently (see `rust/urls/src/csv.rs`): a row with too few fields has nulls, a
  malformed one keeps its text behind `MALFORMED_MARK` in `url`, empty lines are no rows. Kept columns get
  a type by their first cells.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from turbo_fetch import _native
from turbo_fetch.errors import InputError
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.inference import cell_type, typed_cells
from turbo_fetch.plan.lists import readable
from turbo_fetch.plan.stream import ByteStream

BATCH_ROWS: Final = 16_384
MAX_LINE_CHARACTERS: Final = 64 << 20


def read_lines(
    stream: ByteStream, columns: Columns, schema: pa.Schema | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a txt list; InputError if more than the URL is asked for, or a line is too long."""
    columns.locate([columns.url], stream.url)
    schema = schema or columns.schema(pa.schema([]))
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    rest = ""
    for block in stream.text_blocks():
        *lines, rest = (rest + decoder.decode(block)).split("\n")
        if len(rest) > MAX_LINE_CHARACTERS:
            raise InputError(f"{stream.url}: a line is longer than {MAX_LINE_CHARACTERS:,} characters")
        yield from _line_batches(lines, schema)
    rest += decoder.decode(b"", final=True)
    yield from _line_batches(rest.split("\n"), schema)


def _line_batches(lines: list[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    urls = [line for line in lines if line and not line.isspace()]
    for start in range(0, len(urls), BATCH_ROWS):
        yield pa.record_batch([pa.array(urls[start : start + BATCH_ROWS], pa.string())], schema=schema)


def read_cells(
    stream: ByteStream, delimiter: str, columns: Columns, schema: pa.Schema | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a csv or tsv list; InputError if a column is missing, or the file is no table.

    `schema` gives the types of kept columns; without it they are found in the first batch.
    """
    for cells in _cell_batches(stream, delimiter, columns):
        if schema is None:
            kept = [(name, cell_type(cells.column(name))) for name in columns.keep]
            schema = columns.schema(pa.schema(kept))
        texts = [cells.column(name) for name in columns.texts]
        kept_cells = [typed_cells(cells.column(name), schema.field(name).type) for name in columns.keep]
        yield pa.record_batch([*texts, *kept_cells], schema=schema)


def _cell_batches(stream: ByteStream, delimiter: str, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield batches of the wanted columns as strings."""
    reader = _native.CsvReader(delimiter)
    indices: list[int] | None = None
    for block, is_last in _with_last(stream.text_blocks()):
        reader.feed(block, is_last=is_last)
        if indices is None:
            names = reader.header()
            if not names:
                continue
            indices = columns.locate(names, stream.url)
        while (cells := _read(reader, indices, columns, stream.url)).num_rows:
            yield cells


def _read(reader: _native.CsvReader, indices: list[int], columns: Columns, file: str) -> pa.RecordBatch:
    with readable(file):
        batch = pa.record_batch(reader.read(indices, BATCH_ROWS))
    return batch.rename_columns(list(columns.wanted))


def _with_last(blocks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    for block in blocks:
        yield block, False
    yield b"", True
