"""What a format of shards is: each module of this package that is named after one describes it as `FORMAT`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

import pyarrow as pa

from turbo_fetch.arrow.schemas import named
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
    more: Mapping[str, bytes] = MappingProxyType({})
    """The same in further sizes, by their names."""

    @property
    def bytes(self) -> int:
        """Length of all of them."""
        return len(self.content) + sum(map(len, self.more.values()))


def together(
    place: str, found: Iterable[tuple[str, str, bytes]], sizes: Sequence[str]
) -> Iterator[StoredImage]:
    """Put images of all sizes together, of which those of a sample follow one another: key, extension and content.

    Raises DatasetError where a sample has others than one of each size.
    """
    for key, members in groupby(found, key=lambda member: member[0]):
        images = [(extension.rpartition(".")[0], content) for _, extension, content in members]
        if sorted(size for size, _ in images) != sorted(["", *sizes]):
            there = ", ".join(size or "the main size" for size, _ in images)
            raise DatasetError(f"{place}: {key} has images of {there}; expected one of each size")
        by_size = dict(images)
        yield StoredImage(key, by_size.pop(""), by_size)


NamedShard = tuple[str, Iterable[Samples]]


@dataclass(frozen=True, slots=True)
class ImageColumn:
    """Columns of images, the last ones of the Parquet files: that of the main size, then those of further sizes."""

    field: Callable[[ImageSpec], pa.Field]
    """The column of the main size; others are called after it."""
    values: Callable[[Samples, ImageSpec, str], pa.Array]
    """The images of the size of a name."""
    is_column: Callable[[pa.Field], bool]
    """Whether a column of a Parquet file, the last one but those of further sizes, is of this format."""
    metadata: Callable[[Sequence[str]], Mapping[str, bytes] | None] = lambda columns: None
    """Of the schema of the files, from the names of the columns."""

    def fields(self, image: ImageSpec) -> list[pa.Field]:
        """Return the columns of all sizes."""
        main = self.field(image)
        return [main.with_name(named(main.name, size)) for size in ("", *image.more_boxes)]

    def schema(self, metadata: pa.Schema, image: ImageSpec) -> pa.Schema:
        """Return the schema of the files; ColumnTaken if the list has a column of the same name."""
        columns = self.fields(image)
        names = [column.name for column in columns]
        refuse_columns(metadata, names, "the column of images")
        return pa.schema([*metadata, *columns], self.metadata(names))

    def added(self, samples: Samples, image: ImageSpec) -> pa.RecordBatch:
        """Return the metadata of samples with their images."""
        rows = samples.metadata
        for size, column in zip(samples.images, self.fields(image), strict=True):
            rows = rows.append_column(column, self.values(samples, image, size))
        return rows

    def find(self, table: pa.Schema, sizes: Sequence[str]) -> list[str]:
        """Return the names of the columns of a file, with such further sizes; none if it has none of this format."""
        last = list(table)[-1 - len(sizes) :]
        if not last or not self.is_column(last[0]):
            return []
        expected = [named(last[0].name, size) for size in ("", *sizes)]
        return expected if [column.name for column in last] == expected else []


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
    read_images: Callable[[Storage, str, Sequence[str]], Iterator[StoredImage]] | None = None
    """Yields the images of the shard of a name, with such further sizes, in the order in which they stand; may raise
    DatasetError."""
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

    def image_columns(self, table: pa.Schema, sizes: Sequence[str] = ()) -> list[str]:
        """Return the names of the columns of images in a Parquet file, none if it has none of this format."""
        return [] if self.column is None else self.column.find(table, sizes)


class ColumnTaken(InputError):
    """A column has a name that the format gives to something else."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"the column {name!r} has the name of {what}")


def refuse_columns(metadata: pa.Schema, taken: Iterable[str], what: str) -> None:
    """Raise ColumnTaken if a column of the list has one of the names that are taken by `what`."""
    for name in taken:
        if name in metadata.names:
            raise ColumnTaken(name, what)


@contextmanager
def reading(place: str, damage: type[Exception]) -> Iterator[None]:
    """Turn into a DatasetError what is raised of a missing file, and of a torn or altered one: its end, or `damage`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f"{place}: missing, though its shard is committed") from error
    except (EOFError, damage) as error:
        raise DatasetError(f"{place}: damaged: {error}") from error
