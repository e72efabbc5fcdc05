"""Lists that are typed tables: Parquet and Arrow files as batches of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from turbo_fetch.errors import InputError
from turbo_fetch.plan.arrow_batches import sound_parts
from turbo_fetch.plan.arrow_messages import Messages, check_messages
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.expansion import parquet_rows_at_once
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.lists import ListFile, readable
from turbo_fetch.plan.stream import ByteStream
from turbo_fetch.plan.text_lists import BATCH_ROWS

PAGE_BUFFER_BYTES: Final = 1 << 20
_ARROW_MAGIC: Final = b"ARROW1\0\0"


def open_parquet(source: ListFile) -> pq.ParquetFile:
    """Open a Parquet file so that its column chunks are read piece by piece, not whole.

    To be closed with `close(force=True)`. Raises InputError if it is none, or is damaged.
    """
    file = source.open()
    try:
        with readable(source.url):
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=PAGE_BUFFER_BYTES)
            _refuse_garbled(parquet.schema_arrow)
            return parquet
    except InputError:
        file.close()
        raise


def read_parquet(
    source: ListFile,
    parquet: pq.ParquetFile,
    columns: Columns,
    schema: pa.Schema,
    notes: ListNotes,
    row_groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an open Parquet file, or of some of its row groups, at flat memory.

    Kept columns have the types of `schema`. Raises InputError for a missing column or a damaged file.
    """
    groups = range(parquet.num_row_groups) if row_groups is None else row_groups
    columns.locate(parquet.schema_arrow.names, source.url)
    for batch in parquet_batches(source, parquet, groups, columns.wanted):
        yield columns.rows(batch, schema, notes)


def parquet_batches(
    source: ListFile,
    parquet: pq.ParquetFile,
    row_groups: Iterable[int],
    columns: Sequence[str],
    most: int = BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """Yield some columns of row groups, at most so many rows at once. Raises InputError where it cannot be read."""
    for group in row_groups:
        rows = parquet_rows_at_once(source, parquet.metadata, group, columns, most)
        with readable(source.url):
            yield from parquet.iter_batches(
                rows, row_groups=[group], columns=list(columns), use_threads=False
            )


def read_arrow(
    stream: ByteStream, columns: Columns, schema: pa.Schema, notes: ListNotes
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an Arrow IPC stream or file (Feather), compressed or not.

    A file is read as the stream it contains, from front to back. Raises InputError as `read_parquet`.
    """
    reader = open_arrow(stream)
    columns.locate(reader.schema.names, stream.url)
    with readable(stream.url):
        for part in sound_parts(reader, columns.wanted, BATCH_ROWS):
            yield columns.rows(part, schema, notes)


def open_arrow(stream: ByteStream) -> pa.ipc.RecordBatchStreamReader:
    """Open an Arrow IPC stream or file; InputError if it is none."""
    with readable(stream.url):
        reader = pa.ipc.open_stream(_arrow_stream(stream))
        _refuse_garbled(reader.schema)
        return reader


def _refuse_garbled(fields: Iterable[pa.Field]) -> None:
    """Raise ValueError if a column, or a part of one, has a name that is no text."""
    for field in fields:
        try:
            field.name.encode()
        except UnicodeDecodeError:
            raise ValueError("the name of a column is not UTF-8") from None
        if pa.types.is_nested(field.type):
            _refuse_garbled(map(field.type.field, range(field.type.num_fields)))


def _arrow_stream(stream: ByteStream) -> pa.NativeFile | Messages:
    """Return the file at the start of its stream: an IPC file is a stream between a magic and a footer."""
    skipped = len(_ARROW_MAGIC) if stream.head(len(_ARROW_MAGIC)) == _ARROW_MAGIC else 0
    if stream.local_path is not None and not stream.is_compressed:
        with stream.local_path.open("rb") as file:
            file.seek(skipped)
            check_messages(file, stream.url)
        # A batch may be as large as the file: mapped, it takes no memory of this process.
        mapped = pa.memory_map(str(stream.local_path))
        mapped.seek(skipped)
        return mapped
    stream.file.read(skipped)
    return Messages(cast(IO[bytes], stream.file), stream.url, stream.size)
