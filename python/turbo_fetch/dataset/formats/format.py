"""What a format of shards is: each module of this package that is named after one describes it as `FORMAT`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import pyarrow as pa

from turbo_fetch.dataset.formats.staged_file import WrittenFile
from turbo_fetch.dataset.hf_features import Feature
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.errors import DatasetError, InputError
from turbo_fetch.spec import ImageSpec
from turbo_fetch.storage import Storage

METADATA_SUFFIX: Final = ".parquet"
"""Of the table with the metadata of a shard, which every format has."""

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


class MergedFile(Protocol):
    """One file with the samples of a whole dataset, which grows shard by shard, also after an interruption."""

    def __init__(self, path: Path, identity: bytes, image: ImageSpec) -> None:
        """Go on with the file at `path` if it is made from `identity`, or begin it anew."""

    def add(self, shard: str, batches: Iterable[Samples]) -> int:
        """Add a shard unless it is there already; return how many samples it has."""

    def finish(self, samples: int, shards: int) -> None:
        """Write what there is in all, and bring the file to disk."""

    def close(self) -> None:
        """Close the file, finished or not."""


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

    A shard has its metadata in a Parquet file, and its images either in a column of it, or in a file or folder beside
    it, which `read_images` then reads; or nowhere.
    """

    loads_in: str
    """Who reads it, as the dataset card says it."""
    suffix: str = METADATA_SUFFIX
    """Of the file that has the images; empty for a folder."""
    writer: Callable[[Path, pa.Schema, ImageSpec], ShardWriter] | None = None
    """Makes the writer of a file or folder, from the columns of the metadata; None where images are not written."""
    read_images: Callable[[Storage, str], Iterator[StoredImage]] | None = None
    """Yields the images of the shard of a name, in the order in which they stand; may raise DatasetError."""
    image_column: Callable[[pa.Schema], str | None] = lambda table: None
    """Finds the column of images in the columns of a Parquet file, None if there is none of this format."""
    check_package: Callable[[], object] = lambda: None
    """Raises MissingExtra if the format needs a package that is not installed."""
    check_columns: Callable[[pa.Schema, ImageSpec], object] = lambda metadata, image: None
    """Raises InputError if the format cannot have metadata with these columns."""
    hugging_face: HuggingFace | None = None
    """None where `datasets` can load the Parquet files alone."""
    croissant_files: Callable[[ImageSpec], tuple[str, str]] | None = None
    """Pattern and media type of the files with images beside the Parquet files, for Croissant."""
    merged: Callable[[Path, bytes, ImageSpec], MergedFile] | None = None
    """Opens one file for all samples of a dataset; None where there is no such thing."""

    @property
    def is_table(self) -> bool:
        """Whether the Parquet file with the metadata has the images too."""
        return self.writer is not None and self.suffix == METADATA_SUFFIX


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
