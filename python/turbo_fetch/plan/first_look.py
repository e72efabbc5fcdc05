"""A first look at a list of which nothing is known: its columns, and what they seem to hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Final

import pyarrow as pa

from turbo_fetch import _native
from turbo_fetch.arrow.kept_types import is_binary
from turbo_fetch.arrow.python_values import python_values
from turbo_fetch.errors import InputError
from turbo_fetch.plan.arrow_batches import sound_parts
from turbo_fetch.plan.columnar_lists import open_arrow, open_parquet, parquet_batches
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.image_files import is_image
from turbo_fetch.plan.image_folders import COLUMNS, count_images
from turbo_fetch.plan.json_lists import row_batches
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.lists import ListFile, find_lists, holds_images, readable
from turbo_fetch.plan.stream import ByteStream
from turbo_fetch.plan.text_lists import DELIMITERS, SEPARATORS
from turbo_fetch.spec import InputSpec, WarcSpec

ROWS: Final = 1000
"""How many rows are looked at."""

_URL: Final = re.compile(r"\s*(https?:)?//[^\s/]+\S*\s*", re.IGNORECASE)
_ELSEWHERE: Final = re.compile(r"\s*([a-z][a-z0-9+.-]*://\S|file:/|data:)", re.IGNORECASE)
"""How addresses begin that are not of the web; paths begin in any way."""
_IMAGE_NAMES: Final = re.compile(r"image|img|picture|photo|jpe?g|png|webp|bytes", re.IGNORECASE)
_HEX: Final = {32: "md5", 64: "sha256", 128: "sha512"}
_URL_NAMES: Final = re.compile(r"(image|img|picture|photo)?[_ ]?(url|link|uri|href|src)", re.IGNORECASE)
_CAPTION_NAMES: Final = re.compile(r"caption|text|alt|title|description|prompt|label", re.IGNORECASE)

Values = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What a list seems to be: names of columns, None for what it does not have."""

    files: tuple[ListFile, ...]
    names: tuple[str, ...]
    """All columns, in the order of the list."""
    rows: int | None
    """Rows of all files, None if only reading tells."""
    url: str
    caption: str | None
    hash: tuple[str, str] | None
    """A column of hashes, and their kind."""
    has_header: bool = True
    separator: str | None = None
    """What is between the fields of csv and tsv files, if it is not what the format says."""
    image: str | None = None
    """A column that holds the images themselves."""
    has_records: bool = False
    """Whether the list says where in WARC files the images are."""
    elsewhere: tuple[str, ...] = ()
    """Addresses of the list that are not of the web."""

    @property
    def others(self) -> tuple[str, ...]:
        """Columns that are neither URL, caption, image, hash nor of a record."""
        used = {self.url, self.caption, self.image, None if self.hash is None else self.hash[0]}
        used.update(WarcSpec().columns if self.has_records else ())
        return tuple(name for name in self.names if name not in used)


def first_look(urls: str) -> FirstLook:
    """Look at the start of a list. Raises InputError if it cannot be read, or no column holds URLs or images."""
    files = tuple(find_lists(InputSpec(urls=urls, format="images" if holds_images(urls) else "auto")))
    if files[0].format == "images":
        return FirstLook(files, COLUMNS, count_images(files[0]), "url", "caption", None)
    source, values, has_header = _first_rows(files)
    separator = None
    if source.format in DELIMITERS and (separator := _other_separator(source, values)) is not None:
        values, has_header = _cells(source, separator)
    found = _share_of(values, _is_url)
    if not any(found.values()):
        found = _share_of(values, _is_elsewhere)
    likely = [name for name, share in found.items() if share > 0.5] or [
        name for name in found if found[name] > 0
    ]
    image = _image(source)
    if not likely and image is not None:
        likely = ["url"]
    if not likely:
        shown = "; ".join(f"{name!r}: {str(_first(column))[:40]!r}" for name, column in values.items())
        raise InputError(
            f"{source.url}: no column holds URLs ({shown}); expected texts such as http://example.org/1.jpg"
        )
    url = min(likely, key=lambda name: (_URL_NAMES.fullmatch(name) is None, -found.get(name, 0)))
    return FirstLook(
        files=files,
        names=tuple(values),
        rows=_rows(files),
        url=url,
        caption=_caption({name: column for name, column in values.items() if name not in likely}),
        hash=_hash(values),
        has_header=has_header,
        separator=separator,
        image=image,
        has_records=image is None and set(WarcSpec().columns) <= values.keys(),
        elsewhere=tuple(filter(_is_elsewhere, values.get(url, ()))) if image is None else (),
    )


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and _URL.fullmatch(value) is not None


def _is_elsewhere(value: Any) -> bool:
    return (
        isinstance(value, str)
        and not _is_url(value)
        and (_ELSEWHERE.match(value) is not None or is_image(value.strip()))
    )


def _image(source: ListFile) -> str | None:
    """Return the column of a file that holds images, by its type and, where it is plain binary, its name."""
    if source.format == "parquet":
        parquet = open_parquet(source)
        schema = parquet.schema_arrow
        parquet.close(force=True)
    elif source.format == "arrow":
        stream = ByteStream(source)
        schema = open_arrow(stream).schema
        stream.close()
    else:
        return None
    return next((field.name for field in schema if _may_hold_images(field)), None)


def _may_hold_images(field: pa.Field) -> bool:
    if pa.types.is_struct(field.type):
        return "bytes" in field.type.names and is_binary(field.type.field("bytes").type)
    return is_binary(field.type) and _IMAGE_NAMES.search(field.name) is not None


def _first_rows(files: Sequence[ListFile]) -> tuple[ListFile, Values, bool]:
    """Return the first file that has rows, and its `_start`. Raises InputError if none has."""
    for source in files:
        values, has_header = _start(source)
        if any(values.values()):
            return source, values, has_header
    raise InputError(
        f"{files[0].url}: no column holds URLs (it has no rows{', nor has any other file' * (len(files) > 1)})"
    )


def _start(source: ListFile) -> tuple[Values, bool]:
    """Return the first rows of a file by column, and whether it says what its columns are called."""
    if source.format == "parquet":
        parquet = open_parquet(source)
        try:
            schema = parquet.schema_arrow
            others = [field.name for field in schema if not _may_hold_images(field)]
            groups = range(parquet.num_row_groups)
            batches = parquet_batches(source, parquet, groups, others, ROWS) if others else iter(())
            batch, count = next(batches, None), min(ROWS, parquet.metadata.num_rows)
        finally:
            parquet.close(force=True)
        return _by_column(schema, batch, count), True
    if source.format in DELIMITERS:
        return _cells(source, DELIMITERS[source.format])
    stream = ByteStream(source)
    try:
        match source.format:
            case "arrow":
                reader = open_arrow(stream)
                with readable(source.url):
                    others = [field.name for field in reader.schema if not _may_hold_images(field)]
                    batch = next(filter(len, sound_parts(reader, others, ROWS)), None)
                    return _by_column(reader.schema, batch, 0 if batch is None else len(batch)), True
            case "txt":
                text = b""
                for block in stream.text_blocks():
                    text += block
                    if b"\n" in text.strip():
                        break
                lines = text.decode("utf-8", "replace").splitlines()[:ROWS]
                return {"url": [line for line in lines if line.strip()]}, True
            case _:
                rows = next(row_batches(stream, source.format == "jsonl", Columns("url"), ListNotes()), [])[
                    :ROWS
                ]
                names = dict.fromkeys(name for row in rows for name in row)
                return {name: [row.get(name) for row in rows] for name in names}, True
    finally:
        stream.close()


def _by_column(schema: pa.Schema, batch: pa.RecordBatch | None, rows: int) -> Values:
    """Return the values of each column; those that hold images are not looked at, for they may be large."""
    return {
        field.name: [None] * min(rows, ROWS)
        if _may_hold_images(field)
        else []
        if batch is None
        else python_values(batch.column(field.name).slice(0, ROWS))
        for field in schema
    }


def _other_separator(source: ListFile, values: Values) -> str | None:
    """Return what is between the fields of a csv or tsv file, if something else gives it more columns, one of URLs.

    Nothing else does if the URLs hold no such character, each of them.
    """
    shares = _share_of(values, _is_url)
    urls = [
        str(value) for name in values if shares[name] > 0.5 for value in values[name] if value is not None
    ]
    if urls and not any(all(each in url for url in urls) for each in SEPARATORS):
        return None
    most, best = len(values) if urls else 1, None
    for separator in SEPARATORS:
        found, _ = _cells(source, separator)
        if len(found) > most and max(_share_of(found, _is_url).values(), default=0) > 0.5:
            most, best = len(found), separator
    return best


def _cells(source: ListFile, delimiter: str) -> tuple[Values, bool]:
    stream = ByteStream(source)
    try:
        return _read_cells(stream, delimiter)
    finally:
        stream.close()


def _read_cells(stream: ByteStream, delimiter: str) -> tuple[Values, bool]:
    reader = _native.CsvReader(delimiter, "auto")
    names: list[str] = []
    columns: list[list[Any]] = []
    for block in chain(stream.text_blocks(), [b""]):
        reader.feed(block, is_last=len(block) == 0 or stream.fraction_read >= 1.0)
        with readable(stream.url):
            names = names or reader.header() or []
            batch = reader.read(list(range(len(names))), ROWS) if names else None
        columns = [[] for _ in names] if batch is None else [column.to_pylist() for column in batch.columns]
        if any(columns):  # A row may be longer than a block.
            break
    if any(_URL.fullmatch(name) for name in names):
        rows = [[name, *column] for name, column in zip(names, columns, strict=True)]
        return {f"column_{number}": values for number, values in enumerate(rows, 1)}, False
    return dict(zip(names, columns, strict=True)), True


def _share_of(values: Values, is_such: Callable[[Any], bool]) -> dict[str, float]:
    """Return for each column which share of its values, those apart that are null, is such."""
    shares = {}
    for name, column in values.items():
        known = [value for value in column if value is not None]
        shares[name] = sum(map(is_such, known)) / max(1, len(known))
    return shares


def _caption(values: Values) -> str | None:
    """Return the column that is named like a caption, or has texts of several words; the longest texts first."""
    words = {
        name: sum(len(value.split()) for value in column if isinstance(value, str))
        / max(1, sum(value not in {None, ""} for value in column if not isinstance(value, list | dict)))
        for name, column in values.items()
    }
    likely = [
        name for name in words if words[name] >= 1 and (_CAPTION_NAMES.search(name) or words[name] >= 2)
    ]
    return max(likely, key=lambda name: (_CAPTION_NAMES.search(name) is not None, words[name]), default=None)


def _hash(values: Values) -> tuple[str, str] | None:
    for length, kind in _HEX.items():
        shares = _share_of(values, partial(_is_hex, length))
        for name, share in shares.items():
            if share == 1.0 and kind in name.lower():
                return name, kind
    return None


def _is_hex(length: int, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-fA-F]{{{length}}}", value) is not None


def _rows(files: Sequence[ListFile]) -> int | None:
    if any(file.format != "parquet" for file in files):
        return None
    total = 0
    for file in files:
        parquet = open_parquet(file)
        total += int(parquet.metadata.num_rows)
        parquet.close(force=True)
    return total


def _first(column: Sequence[Any]) -> Any:
    return next((value for value in column if value is not None), None)
