"""The formats of shards: each word of `fetch.output.format` is a module here, which has all that is known of it.

What a format writes is a pure function of the sorted samples of a shard: how these are cut into batches leaves no trace
in the files, nor does the time at which they are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import get_args

import pyarrow as pa

from turbo_fetch.dataset import names
from turbo_fetch.dataset.formats.format import ColumnTaken, Format
from turbo_fetch.dataset.formats.staged_file import WrittenFile
from turbo_fetch.dataset.formats.table_file import IMAGE_BYTES_PER_GROUP, IMAGES_PER_GROUP, TableFile
from turbo_fetch.dataset.samples import Samples, metadata_schema
from turbo_fetch.errors import DatasetError, InputError
from turbo_fetch.spec import ImageSpec, OutputFormat

__all__ = [
    "Format",
    "WrittenFile",
    "all_formats",
    "check_columns",
    "check_packages",
    "data_suffixes",
    "format_of",
    "write_shard",
]


@cache
def format_of(name: OutputFormat) -> Format:
    """Return the format of a name; its module is imported only then. Raises DatasetError if there is none."""
    if name not in get_args(OutputFormat):
        known = ", ".join(get_args(OutputFormat))
        raise DatasetError(f"{name!r} is not a format of shards; expected one of {known}")
    found: Format = import_module(f"{__name__}.{name}").FORMAT
    return found


def all_formats() -> dict[OutputFormat, Format]:
    """Return all formats by name."""
    return {name: format_of(name) for name in get_args(OutputFormat)}


def data_suffixes() -> frozenset[str]:
    """Return the suffixes that files or folders of the data of a shard may have in any format."""
    return frozenset({names.METADATA_SUFFIX, *(each.suffix for each in all_formats().values())})


def check_packages(output_format: OutputFormat) -> None:
    """Raise MissingExtra if the format needs a package that is not installed."""
    format_of(output_format).check_package()


def check_columns(
    output_format: OutputFormat,
    source: pa.Schema,
    image: ImageSpec,
    scores: Iterable[pa.Field] = (),
    remedy: str = "another: give it a new name in fetch.input.keep_columns, or leave it out",
) -> None:
    """Raise InputError if rows with the columns `source`, and maybe scores, cannot be written in this format; `remedy`
    is what to do about a column whose name the format needs.
    """
    kind, metadata = format_of(output_format), pa.schema([*metadata_schema(source, image), *scores])
    try:
        kind.check_columns(metadata, image)
        if kind.column is not None:
            kind.column.schema(metadata, image)
    except ColumnTaken as taken:
        raise InputError(f"{taken} in {output_format}; expected {remedy}") from taken


def write_shard(
    output_format: OutputFormat,
    samples: Iterable[Samples],
    work: Path,
    name: str,
    image: ImageSpec,
    extras: bool = True,
) -> list[WrittenFile]:
    """Write the files of one shard into the folder `work`; return them in the order to publish them.

    `samples` are all rows of the shard, at least one, in row order; `name` is the shard's. Without `extras` there is
    nothing that img2dataset does not write. Files of that
    name in `work`, of an earlier attempt, are replaced. Raises OutputError if they cannot be written.
    """
    kind = format_of(output_format)
    writer = kind.writer if extras or kind.bare_writer is None else kind.bare_writer
    batches = iter(samples)
    first = next(batches, None)
    if first is None:
        raise ValueError(f"{name}: a shard without rows")
    schema = first.metadata.schema
    data_name, table_name = f"{name}{kind.suffix}", names.metadata(name)
    data = None
    with ExitStack() as stack:
        if writer is not None:
            data = stack.enter_context(closing(writer(work / names.staged(data_name), schema, image)))
        table = stack.enter_context(closing(_table(kind, work / names.staged(table_name), schema, image)))
        for batch in chain([first], batches):
            if data is not None:
                data.add(batch)
            table.add(batch.metadata if kind.column is None else kind.column.added(batch, image))
        written = [] if data is None else [data.finish(data_name)]
        return [*written, table.finish(table_name)]


def _table(kind: Format, path: Path, metadata: pa.Schema, image: ImageSpec) -> TableFile:
    if kind.column is None:
        return TableFile(path, metadata)
    schema = kind.column.schema(metadata, image)
    images = [column.name for column in kind.column.fields(image)]
    return TableFile(path, schema, IMAGES_PER_GROUP, images, IMAGE_BYTES_PER_GROUP)
