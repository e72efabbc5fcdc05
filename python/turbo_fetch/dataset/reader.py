"""A finished dataset: what it is, its shards, and their rows joined with their images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from turbo_fetch.arrow.python_values import python_rows
from turbo_fetch.arrow.score_types import score_schema
from turbo_fetch.dataset import names
from turbo_fetch.dataset.description import Job, read_job
from turbo_fetch.dataset.formats import all_formats, format_of
from turbo_fetch.dataset.formats.format import StoredImage
from turbo_fetch.dataset.formats.images import (
    ENCODINGS,
    image_type,
    type_extension,
)
from turbo_fetch.dataset.manifest import Record, read_lines, read_record, record_digest
from turbo_fetch.dataset.metadata_files import ROWS_PER_BATCH, metadata_batches, opened, with_seconds
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.errors import DatasetError, InputError
from turbo_fetch.spec import ImageSpec, OutputFormat
from turbo_fetch.storage import Storage

BATCH_BYTES: Final = 16 << 20


class Sample(NamedTuple):
    """A row that has an image: its key, the bytes of the image as stored, and all its metadata."""

    key: str
    image: bytes
    metadata: dict[str, Any]
    more: Mapping[str, bytes] = MappingProxyType({})
    """The image in further sizes, by their names: `128`."""

    @property
    def caption(self) -> str | None:
        """The caption, None if it is null or the dataset has none."""
        return self.metadata.get("caption")

    @property
    def extension(self) -> str:
        """The extension of a file with this image, by its content: jpg, png …"""
        return type_extension(image_type(self.image))


@dataclass(frozen=True, slots=True)
class StoredShard:
    """A committed shard: its number, the name of its files without suffix, and how many rows it has.

    `digest` stands for the contents of its files, `record` for all that its record says; both are empty for a dataset
    of img2dataset.
    """

    number: int
    name: str
    rows: int
    digest: str = ""
    record: str = ""


class StoredDataset:
    """A finished dataset, or the committed part of one; made by `open`, holds no file open."""

    def __init__(self, storage: Storage, job: Job | None, shards: Sequence[StoredShard]) -> None:
        self.storage = storage
        self.shards = tuple(shards)
        """The committed shards, in order."""
        self.essentials: dict[str, Any] | None = None if job is None else job["essentials"]["fetch"]
        """The part of the spec that shows in the files, None for a dataset of img2dataset."""
        self.format: OutputFormat = (
            _guess_format(storage, self.shards) if job is None else self.essentials_of("output")["format"]
        )

    @classmethod
    def open(cls, storage: Storage) -> StoredDataset:
        """See :func:`open_dataset`."""
        job = read_job(storage)
        if job is None:
            shards = list(_unlisted_shards(storage))
        else:
            found = _listed_shards(storage)
            shards = [found[number] for number in sorted(found)]
        if not shards and job is not None:
            raise InputError(
                f"{storage.url}: no shard of this dataset is finished yet; `turbo-fetch run` with its spec resumes it"
            )
        if not shards:
            raise InputError(
                f"{storage.url}: there is no dataset; expected a folder in which turbo-fetch or img2dataset "
                f"has finished a shard"
            )
        return cls(storage, job, shards)

    @classmethod
    def bare(cls, storage: Storage) -> StoredDataset:
        """Open a dataset made by turbo-fetch without looking for its shards, of which there may be none yet.

        It is cheap however many there are, and small when pickled: what works on one shard at a time is given this.
        Raises DatasetError if there is no dataset.
        """
        job = read_job(storage)
        if job is None:
            raise DatasetError(
                f"{storage.url}: there is no {names.JOB}; expected a dataset made by turbo-fetch"
            )
        return cls(storage, job, ())

    def without_shards(self) -> StoredDataset:
        """Return the dataset as `bare` opens it, also one of img2dataset."""
        bare = copy(self)
        bare.shards = ()
        return bare

    def essentials_of(self, table: str) -> dict[str, Any]:
        """Return a table of `essentials`; DatasetError for a dataset of img2dataset, which has none."""
        if self.essentials is None:
            raise DatasetError(
                f"{self.storage.url}: there is no {names.JOB}; expected a dataset made by turbo-fetch"
            )
        found: dict[str, Any] = self.essentials[table]
        return found

    @property
    def image(self) -> ImageSpec:
        """How the images were made; for a dataset of img2dataset only the encoding is true."""
        if self.essentials is None:
            return ImageSpec(encode=_guess_encoding(self))
        try:
            return ImageSpec.model_validate(self.essentials_of("image"))
        except ValidationError as error:
            raise DatasetError(
                f"{self.storage.url}/{names.JOB}: essentials.fetch.image is not understood: {error}"
            ) from error

    @property
    def more_sizes(self) -> tuple[str, ...]:
        """What the further sizes of the images are called, none for a dataset of img2dataset."""
        has_more = self.essentials is not None and self.essentials["image"].get("more_sizes")
        return tuple(self.image.more_boxes) if has_more else ()

    @property
    def scores(self) -> pa.Schema:
        """The columns that a function of the user's made."""
        found = (self.essentials or {}).get("score")
        return score_schema(found["columns"] if found else {})

    def record(self, shard: StoredShard) -> Record | None:
        """Return the commit record of a shard, None for img2dataset's."""
        return read_record(self.storage, shard.name)

    def samples(self, shards: Iterable[StoredShard | str] | None = None) -> Iterator[Sample]:
        """Yield the samples of shards (default: all), in order; about 16 MB are in memory at a time.

        A shard may be given by its name, `00042`. Raises InputError if there is none of that name.
        """
        for shard in self.shards if shards is None else map(self._shard, shards):
            for batch in self.batches(shard):
                for row, (metadata, image) in enumerate(
                    zip(python_rows(batch.metadata), batch.image, strict=True)
                ):
                    if image.is_valid:
                        more = {size: images[row].as_py() for size, images in batch.more.items()}
                        yield Sample(metadata["key"], image.as_py(), metadata, more)

    def _shard(self, shard: StoredShard | str) -> StoredShard:
        if isinstance(shard, StoredShard):
            return shard
        found = next((each for each in self.shards if each.name == shard), None)
        if found is None:
            known = ", ".join(each.name for each in self.shards[:3])
            raise InputError(f"{self.storage.url}: there is no shard {shard!r}; expected one of {known} …")
        return found

    def batches(self, shard: StoredShard, most_rows: int = ROWS_PER_BATCH) -> Iterator[Samples]:
        """Yield all rows of a shard in order, those without an image too, in batches of so many and 16 MB at most.

        Raises DatasetError where rows and images do not agree.
        """
        kind, sizes = format_of(self.format), self.more_sizes
        with opened(self.storage, names.metadata(shard.name)) as table:
            images = None if kind.read_images is None else kind.read_images(self.storage, shard.name, sizes)
            columns = kind.image_columns(table.schema_arrow, sizes)
            for metadata, within in metadata_batches(table, columns, most_rows):
                if images is not None:
                    yield from _joined(metadata, images, sizes, self._place(shard))
                elif within:
                    yield _checked(metadata, dict(zip(("", *sizes), within, strict=True)), self._place(shard))
                else:
                    yield _samples(metadata, dict.fromkeys(("", *sizes), [None] * metadata.num_rows))
            left = None if images is None else next(images, None)
            if left is not None:
                raise DatasetError(
                    f"{self._place(shard)}: the image {left.key} has no row, or is out of order"
                )

    @property
    def rows(self) -> int:
        """How many rows of the list are in the shards, those that failed too."""
        return sum(shard.rows for shard in self.shards)

    def metadata(self, shard: StoredShard | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the metadata of a shard, or of all, without the images; or only some of the columns."""
        if shard is None:
            return _together(self.metadata(each, columns) for each in self.shards)
        with opened(self.storage, names.metadata(shard.name)) as table:
            rows = table.read(columns or self._without_images(table.schema_arrow).names)
            return with_seconds(rows.replace_schema_metadata(None), table)

    def metadata_schema(self, shard: StoredShard) -> pa.Schema:
        """Return the columns of the metadata of a shard, without images."""
        with opened(self.storage, names.metadata(shard.name)) as table:
            return self._without_images(table.schema_arrow)

    def ledger(self, shard: StoredShard | None = None) -> pa.Table:
        """Return the ledger of a shard, or of all: what happened to every URL. See :data:`LEDGER` for its columns.

        DatasetError for a dataset of img2dataset, which has none.
        """
        if shard is None:
            return _together(map(self.ledger, self.shards))
        if self.essentials is None:
            raise DatasetError(f"{self.storage.url}: a dataset of img2dataset, which keeps no ledger")
        with opened(self.storage, names.ledger(shard.name)) as table:
            return table.read()

    def urls(self, shard: StoredShard) -> pa.ChunkedArray:
        """Return the URLs of a shard as the list had them: those of the ledger are masked."""
        with opened(self.storage, names.metadata(shard.name)) as table:
            return table.read(["url"]).column("url")

    def _without_images(self, table: pa.Schema) -> pa.Schema:
        images = format_of(self.format).image_columns(table, self.more_sizes)
        return pa.schema([column for column in table if column.name not in images])

    def _place(self, shard: StoredShard) -> str:
        return f"{self.storage.url}/{shard.name}{format_of(self.format).suffix}"


def may_hold_dataset(storage: Storage) -> bool:
    """Return whether a place looks like a dataset, one just begun included. Raises what `read_job` raises."""
    if read_job(storage) is not None:
        return True
    return any(names.shard_of_metadata(entry.name) is not None for entry in storage.list())


def open_dataset(url: str) -> StoredDataset:
    """Open the dataset in a folder or at any fsspec URL, without reading its shards; also one of img2dataset.

    Raises InputError if there is none, or if it has the layout of an earlier version.
    """
    return StoredDataset.open(open_place(url))


def _together(tables: Iterable[pa.Table]) -> pa.Table:
    # A column that is null in all of a shard may have another type there.
    return pa.concat_tables(tables, promote_options="permissive")


def _joined(
    metadata: pa.RecordBatch, images: Iterator[StoredImage], sizes: Sequence[str], place: str
) -> Iterator[Samples]:
    """Give each successful row the next image, which must be its own."""
    start, size = 0, 0
    found: list[StoredImage | None] = []
    rows = zip(metadata.column("key").to_pylist(), _successes(metadata), strict=True)
    for stop, (key, is_success) in enumerate(rows):
        image = next(images, None) if is_success else None
        if is_success and (image is None or image.key != key):
            seen = "nothing" if image is None else image.key
            raise DatasetError(f"{place}: the image of {key} is missing or out of order; found {seen}")
        if size and image is not None and size + image.bytes > BATCH_BYTES:
            yield _samples(metadata.slice(start, stop - start), _by_size(found, sizes))
            start, size, found = stop, 0, []
        found.append(image)
        size += 0 if image is None else image.bytes
    yield _samples(metadata.slice(start), _by_size(found, sizes))


def _by_size(found: Sequence[StoredImage | None], sizes: Sequence[str]) -> dict[str, list[bytes | None]]:
    main = [None if image is None else image.content for image in found]
    return {"": main, **{size: [image and image.more[size] for image in found] for size in sizes}}


def _checked(metadata: pa.RecordBatch, within: Mapping[str, pa.Array], place: str) -> Samples:
    successes = _successes(metadata)
    if any(images.is_valid().to_pylist() != successes for images in within.values()):
        first = metadata.column("key")[0]
        raise DatasetError(
            f"{place}: from {first} on, the rows with an image are not those with status success"
        )
    return _samples(metadata, {size: images.to_pylist() for size, images in within.items()})


def _successes(metadata: pa.RecordBatch) -> list[bool]:
    successes: list[bool] = pc.equal(metadata.column("status"), "success").to_pylist()
    return successes


def _samples(metadata: pa.RecordBatch, images: Mapping[str, Sequence[bytes | None]]) -> Samples:
    """Return samples with images of each size, an empty name for the main one."""
    types = [None if content is None else image_type(content) for content in images[""]]
    arrays = {size: pa.array(contents, pa.binary()) for size, contents in images.items()}
    return Samples(metadata, arrays.pop(""), pa.array(types, pa.string()), arrays)


def stored_shard(record: Record) -> StoredShard:
    """Return the shard of a commit record."""
    hashes = "\n".join(file["sha256"] for file in record["files"])
    digest = hashlib.sha256(hashes.encode()).hexdigest()
    return StoredShard(record["shard"], record["name"], record["rows"], digest, record_digest(record))


def _listed_shards(storage: Storage) -> dict[int, StoredShard]:
    """Return the shards of a manifest; those of damaged lines, or of one that is lost, by their commit records."""
    found: dict[int, StoredShard] = {}
    is_whole = True
    with suppress(FileNotFoundError):
        for record in read_lines(storage):
            if record is None:
                is_whole = False
            else:
                found[record["shard"]] = stored_shard(record)
    if not is_whole or not found:
        found = {shard.number: shard for shard in _published_shards(storage)} | found
    return found


def _published_shards(storage: Storage) -> Iterator[StoredShard]:
    """Yield the shards that have a commit record."""
    for entry in storage.list():
        name = names.shard_of_stats(entry.name)
        record = None if name is None else read_record(storage, name)
        if record is not None:
            yield stored_shard(record)


def _unlisted_shards(storage: Storage) -> Iterator[StoredShard]:
    """Yield the shards of a dataset that has no manifest, by the names of its metadata files."""
    found = [name for entry in storage.list() if (name := names.shard_of_metadata(entry.name))]
    for name in sorted(found, key=int):
        with opened(storage, names.metadata(name)) as table:
            yield StoredShard(int(name), name, table.metadata.num_rows)


def _guess_format(storage: Storage, shards: Sequence[StoredShard]) -> OutputFormat:
    """Return the format whose images are there: beside the metadata, or in a column of it."""
    first, formats = shards[0].name, all_formats()
    # Folders last: one may be an archive that was unpacked.
    for name in sorted(formats, key=lambda name: not formats[name].suffix):
        if formats[name].read_images is not None and storage.exists(f"{first}{formats[name].suffix}"):
            return name
    with opened(storage, names.metadata(first)) as table:
        within = [name for name in formats if formats[name].image_columns(table.schema_arrow)]
    return within[0] if within else next(name for name in formats if not formats[name].has_images)


def _guess_encoding(dataset: StoredDataset) -> Any:
    """Return the encoding of the first image, by its content; `original` if it is none that is encoded to."""
    first = next(dataset.samples(), None)
    found = None if first is None else first.extension
    return found if found in ENCODINGS else "original"
