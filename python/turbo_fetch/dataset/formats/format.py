"""What a format of shards is: each module of this package that is named after one describes it as `FORMAT`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import pyarrow as pa

from turbo_fetch.dataset.formats.staged_file import WrittenFile
from turbo_fetch.dataset.hf_features import Feature
from turbo_fetch.dataset.names import METADATA_SUFFIX
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.errors import DatasetError, InputError
from turbo_fetch.spec import ImageSpec
from turbo_fetch.storage import Storage

TABLE_READERS: Final = "pyarrow, pandas, Polars, DuckDB"


class ShardWriter(Protocol):
    """What writes the images of one shard."""

    def add(self, samples: Samples) -> None:
        """Append samples, of which those that failed have no image."""

    def finish(self, name: str) -> WrittenFile:
        """Return the finished file or folder, to be published as `name`."""

    def close(self) -> None:
        """Close all files, finished or not."""


class StoredImage(NamedTuple):
    """An image in a shard, and the key of its sample."""

    key: str
    content: bytes


NamedShard = tuple[str, Iterable[Samples]]


@dataclass(frozen=True, slots=True)
class ImageColumn:
    """A column of images, the last one of the Parquet files."""

    field: Callable[[ImageSpec], pa.Field]
    values: Callable[[Samples, ImageSpec], pa.Array]
    is_column: Callable[[pa.Field], bool]
    """Whether the last column of a Parquet file is of this format."""
    metadata: Mapping[str, bytes] | None = None
    """Of the schema of the files."""

    def schema(self, metadata: pa.Schema, image: ImageSpec) -> pa.Schema:
        """Return the schema of the files; InputError if the list has a column of the same name."""
        column = self.field(image)
        refuse_columns(metadata, [column.name], "the column of images")
        schema = metadata.append(column)
        return schema if self.metadata is None else schema.with_metadata(self.metadata)

    def find(self, table: pa.Schema) -> str | None:
        """Return the name of the column of a file, None if it has none of this format."""
        last = table.field(len(table) - 1) if table.names else None
        return last.name if last is not None and self.is_column(last) else None


@dataclass(frozen=True, slots=True)
class HuggingFace:
    """How `datasets` loads shards that are not Parquet files."""

    data_files: Callable[[str, ImageSpec], Sequence[str]]
    """Patterns of the files to load, from that of the name of a shard."""
    features: Callable[[pa.Schema, ImageSpec], Sequence[Feature]] = lambda metadata, image: ()
    """What is in them; nothing where they tell themselves."""
    example: Callable[[str], Sequence[str]] = lambda folder: ()
    """Further lines of Python that show how to load a dataset."""


@dataclass(frozen=True, slots=True)
class Format:
    """All that the rest of the program knows of a format.

    A shard has its metadata in a Parquet file, and its images in a column of that, or in a file or folder beside it,
    which has a writer and a reader; or nowhere.
    """

    loads_in: str
    """Who reads it, as the dataset card says it."""
    column: ImageColumn | None = None
    suffix: str = METADATA_SUFFIX
    """Of the file that has the images; empty for a folder."""
    writer: Callable[[Path, pa.Schema, ImageSpec], ShardWriter] | None = None
    """Makes the writer of a file or folder, from the columns of the metadata."""
    bare_writer: Callable[[Path, pa.Schema, ImageSpec], ShardWriter] | None = None
    """The same of what img2dataset writes alone; None where that is no less."""
    read_images: Callable[[Storage, str], Iterator[StoredImage]] | None = None
    """Yields the images of the shard of a name, in the order in which they stand; may raise DatasetError."""
    check_package: Callable[[], object] = lambda: None
    """Raises MissingExtra if the format needs a package that is not installed."""
    check_columns: Callable[[pa.Schema, ImageSpec], object] = lambda metadata, image: None
    """Raises InputError if the format cannot have metadata with these columns."""
    hugging_face: HuggingFace | None = None
    """None where `datasets` can load the Parquet files alone."""
    croissant_files: Callable[[ImageSpec], tuple[str, str]] | None = None
    """Pattern and media type of the files with images beside the Parquet files, for Croissant."""
    merge: Callable[[Path, bytes, ImageSpec, Iterable[NamedShard]], int] | None = None
    """Writes one file with all samples of shards, or goes on with one that has the same identity; returns how many
    there are. None where there is no such file."""

    @property
    def has_images(self) -> bool:
        """Whether images are written."""
        return self.column is not None or self.writer is not None

    def image_column(self, table: pa.Schema) -> str | None:
        """Return the name of the column of images in a Parquet file, None if it has none of this format."""
        return None if self.column is None else self.column.find(table)


def refuse_columns(metadata: pa.Schema, taken: Iterable[str], what: str) -> None:
    """Raise InputError if a column of the list has one of the names that are taken by `what`."""
    for name in taken:
        if name in metadata.names:
            raise InputError(
                f"the list's column {name!r} has the name of {what}; expected another: give it a new name in "
                "fetch.input.keep_columns, or leave it out"
            )


@contextmanager
def reading(place: str, damage: type[Exception]) -> Iterator[None]:
    """Turn into a DatasetError what is raised of a missing file, and of a torn or altered one: its end, or `damage`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f"{place}: missing, though its shard is committed") from error
    except (EOFError, damage) as error:
        raise DatasetError(f"{place}: damaged: {error}") from error
