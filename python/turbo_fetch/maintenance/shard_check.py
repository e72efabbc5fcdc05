"""One finished shard checked: its commit record, its files, its rows, its images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pyarrow.compute as pc

from turbo_fetch.arrow.schemas import side_columns
from turbo_fetch.dataset import names
from turbo_fetch.dataset.formats import format_of
from turbo_fetch.dataset.manifest import Record, record_digest
from turbo_fetch.dataset.metadata_files import opened
from turbo_fetch.dataset.reader import StoredDataset, StoredShard
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.errors import DatasetError, OutputError
from turbo_fetch.shard.transform import Transform
from turbo_fetch.spec import ImageSpec
from turbo_fetch.storage import Storage

Level = Literal["quick", "full", "deep"]

READ_BYTES: Final = 1 << 20
LARGEST_PIXELS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be: where, and what; `shard` is empty if no finished shard is damaged."""

    shard: str
    place: str
    what: str


@dataclass(slots=True)
class ShardProblems:
    """What the check of one shard came to."""

    rows: int
    samples: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


def check_shard(level: Level, step: tuple[StoredDataset, StoredShard]) -> ShardProblems:
    """Check one shard of a dataset; never raises for what it finds."""
    dataset, shard = step
    found = ShardProblems(shard.rows)
    try:
        record = dataset.record(shard)
        if record is None:
            found.problems.append(
                Problem(shard.name, names.stats(shard.name), "the commit record is missing or garbled")
            )
            return found
        found.samples = record["outcomes"].get("success", 0)
        found.bytes = sum(file["bytes"] for file in record["files"])
        found.problems += _record_problems(shard, record)
        for file in record["files"]:
            found.problems += _file_problems(dataset.storage, shard, file, level)
        if not found.problems:
            found.problems += _row_problems(dataset, shard, record, level)
    except (DatasetError, OutputError, OSError) as error:
        found.problems.append(Problem(shard.name, shard.name, str(error)))
    return found


def _record_problems(shard: StoredShard, record: Record) -> Iterator[Problem]:
    if record_digest(record) != shard.record:
        yield Problem(
            shard.name, names.stats(shard.name), "the commit record and the line of the manifest do not agree"
        )
    if sum(record["outcomes"].values()) != record["rows"]:
        yield Problem(shard.name, names.stats(shard.name), "the outcomes do not add up to the rows")


def _file_problems(
    storage: Storage, shard: StoredShard, file: dict[str, Any], level: Level
) -> Iterator[Problem]:
    name = file["name"]
    if not storage.exists(name):
        yield Problem(shard.name, name, "is missing")
        return
    is_folder = "." not in name
    if is_folder and level == "quick":
        size = sum(entry.bytes or 0 for entry in storage.list(name))
        digest = file["sha256"]
    elif is_folder:
        size, digest = _folder_hash(storage, name)
    elif level == "quick":
        size, digest = _size(storage, name), file["sha256"]
    else:
        size, digest = _hash(storage, name)
    if size != file["bytes"]:
        yield Problem(shard.name, name, f"has {size:,} bytes; expected {file['bytes']:,}")
    elif digest != file["sha256"]:
        yield Problem(shard.name, name, f"is altered: its sha256 is {digest}; expected {file['sha256']}")


def _row_problems(
    dataset: StoredDataset, shard: StoredShard, record: Record, level: Level
) -> Iterator[Problem]:
    """Yield what is wrong with the rows of a shard whose files are those that were written."""
    for name in (names.metadata(shard.name), names.ledger(shard.name)):
        with opened(dataset.storage, name) as table:
            if table.metadata.num_rows != shard.rows:
                what = f"has {table.metadata.num_rows:,} rows; expected {shard.rows:,}"
                yield Problem(shard.name, name, what)
    if level == "quick":
        return
    ledger = dataset.ledger(shard)
    outcomes = Counter(ledger.column("outcome").to_pylist())
    if dict(outcomes) != record["outcomes"]:
        what = f"has the outcomes {dict(outcomes)}; expected {record['outcomes']}"
        yield Problem(shard.name, names.ledger(shard.name), what)
    body_bytes = pc.sum(ledger.column("body_bytes")).as_py() or 0
    if body_bytes != record.get("body_bytes", body_bytes):
        what = f"has bodies of {body_bytes:,} bytes; expected {record['body_bytes']:,}"
        yield Problem(shard.name, names.ledger(shard.name), what)
    samples = 0
    decoder = _Decoder(dataset.image) if level == "deep" else None
    for batch in dataset.batches(shard):
        samples += len(batch.image) - batch.image.null_count
        if decoder is not None:
            for size in batch.images:
                yield from decoder.problems(shard, batch, size)
    expected = record["outcomes"].get("success", 0) if format_of(dataset.format).has_images else 0
    if samples != expected:
        yield Problem(shard.name, shard.name, f"has {samples:,} images; expected {expected:,}")


class _Decoder:
    """Decodes stored images, to compare them with what the metadata say."""

    def __init__(self, image: ImageSpec) -> None:
        self._image = image
        # A tiny target is cheap to encode, and the data of the image are decoded to their end all the same.
        spec = ImageSpec(
            size=8, mode="stretch", encode="jpg", digest=image.digest, exif=False, max_pixels=LARGEST_PIXELS
        )
        self._transform = Transform(spec, threads=1)

    def problems(self, shard: StoredShard, samples: Samples, size: str) -> Iterator[Problem]:
        """Yield what is wrong with the images of a batch, of the size of that name."""
        found, sides = samples.images[size], [field.name for field in side_columns(size)]
        # Only these: columns of the user's may have values that Python has no object for.
        wanted = [
            name for name in ("key", *sides, self._image.digest) if name in samples.metadata.schema.names
        ]
        rows = samples.metadata.select(wanted).filter(found.is_valid()).to_pylist()
        images = found.drop_null().to_pylist()
        decoded = self._transform.run(images).to_pylist() if images else []
        for row, picture in zip(rows, decoded, strict=True):
            place = " ".join([shard.name, ".".join(filter(None, [row["key"], size]))])
            shape = (picture["original_width"], picture["original_height"])
            width, height = (row[side] for side in sides)
            if picture["outcome"]:
                yield Problem(shard.name, place, f"does not decode: {picture['detail']}")
            elif shape != (width, height):
                what = f"is {shape[0]} x {shape[1]} pixels; expected {width} x {height}"
                yield Problem(shard.name, place, what)
            elif self._image.encode == "original" and picture["digest"] != row.get(self._image.digest):
                yield Problem(shard.name, place, f"does not match its {self._image.digest}")


def _size(storage: Storage, name: str) -> int:
    with storage.open_file(name) as file:
        return file.seek(0, 2)


def _hash(storage: Storage, name: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with storage.open_file(name) as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def _folder_hash(storage: Storage, name: str) -> tuple[int, str]:
    """Return the size and hash of a folder, as `WrittenFile` defines them."""
    lines, total = [], 0
    for entry in storage.list(name):
        size, digest = _hash(storage, f"{name}/{entry.name}")
        lines.append(f"{entry.name} {size} {digest}\n")
        total += size
    return total, hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
