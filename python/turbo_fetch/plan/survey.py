"""A look at all files of a list before the first request: are the columns there and usable, and of which types.

The types of kept columns have to be the same in all shards, and to hold every value of every file. Tables say theirs in
their footers. Text is read: all of it where it is small, else so much of each file that a run starts within seconds;
what comes later and does not fit is noted by the readers. What is read depends on the files alone, so that the same
list gives the same types.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from turbo_fetch.errors import InputError
from turbo_fetch.plan import image_folders
from turbo_fetch.plan.columnar_lists import open_arrow, open_parquet
from turbo_fetch.plan.columns import Columns, no_column
from turbo_fetch.plan.json_lists import row_batches
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.lists import ListFile
from turbo_fetch.plan.stream import BLOCK_BYTES, ByteStream
from turbo_fetch.plan.text_lists import DELIMITERS, cell_batches
from turbo_fetch.plan.type_inference import EXACT_IN_DOUBLE, CellKinds, Kind, joined, settled, value_kind
from turbo_fetch.plan.urls import MALFORMED_MARK

LOCAL_BYTES: Final = 96 << 20
"""How much of a list is read that lies here as plain text."""
OTHER_BYTES: Final = 16 << 20
"""The same of one that is compressed, remote or JSON."""

_THREADS: Final = 16
_NULL: Final = Kind(pa.null())
_TEXT: Final = Kind(pa.string())


@dataclass(slots=True)
class _Seen:
    """What a file shows."""

    has_rows: bool = False
    has_urls: bool = False
    names: dict[str, None] = field(default_factory=dict)
    """Names of columns, in order, of JSON those that its rows have."""
    cells: dict[str, CellKinds] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)


def survey(files: Sequence[ListFile], columns: Columns) -> pa.Schema:
    """Return the schema of the rows of a list.

    Raises InputError for the first file that cannot be read, lacks a wanted column or has one of a type that cannot be
    used, and if the list has rows, but no URL.
    """
    asks_for_values = columns.is_strict or bool(columns.keep.keys() - columns.declared.keys())
    share = [_share(file, len(files)) if asks_for_values else BLOCK_BYTES for file in files]
    with ThreadPoolExecutor(min(_THREADS, len(files))) as threads:
        seen = list(threads.map(lambda file, most: _look(file, columns, most), files, share))
    _check(files, columns, seen)
    return columns.schema({name: _type_of(name, seen) for name in columns.keep})


def _share(file: ListFile, files: int) -> int:
    """Return how many bytes of a file's text are to be read for the types of its columns."""
    is_plain = file.format in DELIMITERS and file.compression is None and file.local_path is not None
    return max(BLOCK_BYTES, (LOCAL_BYTES if is_plain else OTHER_BYTES) // files)


def _look(file: ListFile, columns: Columns, most_bytes: int) -> _Seen:
    if file.format == "parquet":
        return _look_at_parquet(file, columns)
    if columns.image is not None and file.format != "arrow":
        raise InputError(
            f"{file.url}: fetch.input.image_column is for Parquet and Arrow files, and this is {file.format}"
        )
    if file.format == "images":
        columns.locate(image_folders.COLUMNS, file.url)
        kinds = dict.fromkeys(columns.keep, _TEXT)
        return _Seen(has_rows=True, has_urls=True, names=dict.fromkeys(image_folders.COLUMNS), kinds=kinds)
    stream = ByteStream(file)
    try:
        match file.format:
            case "txt":
                columns.locate([columns.url], file.url)
                return _Seen(has_urls=True, names={columns.url: None})
            case "arrow":
                return _look_at_table(open_arrow(stream).schema, columns, file.url)
            case "csv" | "tsv":
                return _look_at_cells(stream, DELIMITERS[file.format], columns, most_bytes)
            case _:
                return _look_at_json(stream, file.format == "jsonl", columns, most_bytes)
    finally:
        stream.close()


def _look_at_table(schema: pa.Schema, columns: Columns, file: str) -> _Seen:
    columns.locate(schema.names, file)
    columns.check_types(schema, file)
    columns.check_images(schema, file)
    types = {name: schema.field(name).type for name in columns.keep}
    kinds = {name: Kind(kind, kind in (pa.int64(), pa.uint64())) for name, kind in types.items()}
    has_urls = columns.image is not None or not pa.types.is_null(schema.field(columns.url).type)
    return _Seen(has_rows=True, has_urls=has_urls, names=dict.fromkeys(columns.wanted), kinds=kinds)


def _look_at_parquet(file: ListFile, columns: Columns) -> _Seen:
    parquet = open_parquet(file)
    try:
        seen = _look_at_table(parquet.schema_arrow, columns, file.url)
        metadata = parquet.metadata
        seen.has_rows = metadata.num_rows > 0
        if columns.image is None:
            seen.has_urls &= any(has_values for has_values, _ in _statistics(metadata, columns.url))
        for name, kind in seen.kinds.items():
            if kind.is_long:
                is_long = any(_largest(each) > EXACT_IN_DOUBLE for _, each in _statistics(metadata, name))
                seen.kinds[name] = Kind(kind.type, is_long)
        return seen
    finally:
        parquet.close(force=True)


def _statistics(metadata: pq.FileMetaData, name: str) -> Iterator[tuple[bool, pq.Statistics | None]]:
    """Yield for each row group whether a column has any values, as far as is known, and its statistics."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = map(group.column, range(group.num_columns))
        # A dot may be part of a name, or be between those of a column and of what is in it.
        within = [chunk for chunk in chunks if f"{chunk.path_in_schema}.".startswith(f"{name}.")]
        chunk = min(within, key=lambda chunk: len(chunk.path_in_schema), default=None)
        found = None if chunk is None else chunk.statistics
        is_empty = found is not None and found.has_null_count and found.null_count == group.num_rows
        yield not is_empty, found


def _largest(statistics: pq.Statistics | None) -> float:
    """Return the largest magnitude of integers, infinity if it is not known."""
    if statistics is None or not statistics.has_min_max:
        is_empty = statistics is not None and statistics.num_values == 0
        return 0 if is_empty else float("inf")
    return float(max(abs(statistics.min), abs(statistics.max)))


def _look_at_cells(stream: ByteStream, delimiter: str, columns: Columns, most_bytes: int) -> _Seen:
    seen = _Seen(names=dict.fromkeys(columns.wanted), cells=dict.fromkeys(columns.keep, CellKinds()))
    notes = ListNotes(stream.url)
    urls = CellKinds()
    for cells in _first(cell_batches(stream, delimiter, columns, notes), stream, most_bytes, seen):
        if columns.is_strict:
            notes.refuse()
        named = cells.column(columns.url).to_pylist() if not seen.has_urls else []
        values = [
            value for value in named if value and value.strip() and not value.startswith(MALFORMED_MARK)
        ]
        if values:
            seen.has_urls = True
            urls = urls.narrowed(pa.array(values, pa.string()))
            if urls.has_values and urls.types:
                raise _no_urls(columns.url, stream.url, values[0])
        for name in columns.keep:
            seen.cells[name] = seen.cells[name].narrowed(cells.column(name))
    return seen


def _look_at_json(stream: ByteStream, are_lines: bool, columns: Columns, most_bytes: int) -> _Seen:
    seen = _Seen(kinds=dict.fromkeys(columns.keep, _NULL))
    notes = ListNotes(stream.url)
    usable = dict.fromkeys(columns.texts, False)
    for rows in _first(row_batches(stream, are_lines, columns, notes), stream, most_bytes, seen):
        if columns.is_strict:
            notes.refuse()
        if not all(name in seen.names for name in columns.wanted):
            seen.names.update(dict.fromkeys(name for row in rows for name in row))
        for name in [name for name, is_known in usable.items() if not is_known]:
            usable[name] = _is_usable(name, [row.get(name) for row in rows], columns, stream.url)
        seen.has_urls = usable[columns.url]
        for name in columns.keep:
            if seen.kinds[name] == _TEXT:
                continue
            seen.kinds[name] = joined(seen.kinds[name], value_kind([row.get(name) for row in rows]))
    if seen.has_rows and columns.url not in seen.names:
        raise no_column(columns.url, list(seen.names), stream.url)
    return seen


def _first(batches: Iterable[Any], stream: ByteStream, most_bytes: int, seen: _Seen) -> Iterator[Any]:
    """Yield batches until enough of a file has been read, and as long as no URL has been seen."""
    for batch in batches:
        seen.has_rows = True
        yield batch
        if seen.has_urls and stream.bytes_read >= most_bytes:
            return


def _is_usable(name: str, values: Sequence[Any], columns: Columns, file: str) -> bool:
    """Return whether the values of a JSON member are what they are used as, False if they are all null.

    Raises InputError if none of them is.
    """
    kinds: dict[str | None, tuple[type | tuple[type, ...], str]] = {
        columns.caption: ((str, int, float), "strings"),
        columns.boxes: ((str, list), "lists of boxes, or their JSON as strings"),
        columns.hash: (str, "hashes in hex, as strings"),
        columns.url: (str, "URLs as strings"),
        **dict.fromkeys(columns.record, ((str, int), "file names, offsets and lengths")),
    }
    kind, expected = kinds[name]
    found = [value for value in values if value is not None]
    if not found:
        return False
    if not any(isinstance(value, kind) for value in found):
        raise InputError(
            f"{file}: column {name!r} holds values such as {str(found[0])[:60]}; expected {expected}"
        )
    return True


def _no_urls(name: str, file: str, value: str) -> InputError:
    return InputError(f"{file}: column {name!r} holds values such as {value[:60]!r}; expected URLs")


def _check(files: Sequence[ListFile], columns: Columns, seen: Sequence[_Seen]) -> None:
    with_rows = [each for each in seen if each.has_rows]
    found = dict.fromkeys(name for each in seen for name in each.names)
    names = files[0].url if len(files) == 1 else f"{files[0].url} and {len(files) - 1} more files"
    if with_rows and (missing := [name for name in columns.wanted if name not in found]):
        raise no_column(missing[0], list(found), names)
    if with_rows and not any(each.has_urls for each in seen):
        raise InputError(f"{names}: column {columns.url!r} is empty in all rows; expected URLs")


def _type_of(name: str, seen: Sequence[_Seen]) -> pa.DataType:
    cells = [each.cells[name] for each in seen if name in each.cells]
    if cells:
        return reduce(CellKinds.joined, cells).type
    kinds = [each.kinds[name] for each in seen if name in each.kinds]
    return settled(reduce(joined, kinds, _NULL).type) if kinds else pa.string()
