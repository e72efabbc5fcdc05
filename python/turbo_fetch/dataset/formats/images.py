"""The pictures of one stored shard, in the order of its rows, from each format that keeps them beside the metadata."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from turbo_fetch.dataset.formats.lmdb import KEYS_PREFIX, lmdb_package
from turbo_fetch.dataset.formats.tfrecord import PICTURES
from turbo_fetch.dataset.formats.tfrecord_codec import BadRecord, decode_example, read_records
from turbo_fetch.dataset.names import FOLDER_METADATA
from turbo_fetch.errors import DatasetError
from turbo_fetch.spec import OutputFormat
from turbo_fetch.storage import Storage

BESIDE: Final = frozenset({"json", "txt"})
"""Extensions of members that are no pictures."""
COPY_BYTES: Final = 1 << 20


class Picture(NamedTuple):
    """A stored picture and the key of its sample."""

    key: str
    content: bytes


Pictures = Callable[[Storage, str], Iterator[Picture]]
"""Yields the pictures of the shard of a name, in the order in which they stand."""


def tar_pictures(storage: Storage, name: str) -> Iterator[Picture]:
    """See Pictures; `webdataset`."""
    with (
        _whole(f"{storage.url}/{name}.tar"),
        storage.open_file(f"{name}.tar") as file,
        tarfile.open(fileobj=file, mode="r|") as tar,
    ):
        for member in tar:
            # The archive remembers every member otherwise.
            tar.members = []  # type: ignore[attr-defined]
            key, _, extension = member.name.partition(".")
            opened = None if extension in BESIDE else tar.extractfile(member)
            if opened is not None:
                yield Picture(key, opened.read())


def folder_pictures(storage: Storage, name: str) -> Iterator[Picture]:
    """See Pictures; `files`."""
    names = sorted(entry.name for entry in storage.list(name) if entry.bytes is not None)
    for found in names:
        key, _, extension = found.partition(".")
        if extension not in BESIDE and found != FOLDER_METADATA:
            yield Picture(key, storage.read_bytes(f"{name}/{found}"))


def lmdb_pictures(storage: Storage, name: str) -> Iterator[Picture]:
    """See Pictures; `lmdb`. An environment that is elsewhere is copied here first, for LMDB maps files."""
    lmdb = lmdb_package()
    place = f"{storage.url}/{name}.lmdb"
    try:
        with (
            _local_copy(storage, f"{name}.lmdb") as path,
            lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment,
            environment.begin() as transaction,
            transaction.cursor() as cursor,
        ):
            for key, value in cursor:
                stem, _, extension = key.decode("ascii", "replace").partition(".")
                if not key.startswith(KEYS_PREFIX[:2]) and extension not in BESIDE:
                    yield Picture(stem, value)
    except lmdb.Error as error:
        raise DatasetError(f"{place}: damaged: {error}") from error


def record_pictures(storage: Storage, name: str) -> Iterator[Picture]:
    """See Pictures; `tfrecord`."""
    with _whole(f"{storage.url}/{name}.tfrecord"), storage.open_file(f"{name}.tfrecord") as file:
        for record in read_records(file):
            features = decode_example(record)
            key = next(iter(features.get("key", ("bytes", [b""]))[1]), b"")
            for extension in PICTURES:
                found = features.get(extension)
                if found is not None and isinstance(key, bytes) and isinstance(found[1][0], bytes):
                    yield Picture(key.decode("ascii", "replace"), found[1][0])
                    break


BESIDE_METADATA: Final[Mapping[OutputFormat, Pictures]] = {
    "webdataset": tar_pictures,
    "files": folder_pictures,
    "lmdb": lmdb_pictures,
    "tfrecord": record_pictures,
}

_SIGNATURES: Final[Sequence[tuple[bytes, str]]] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"BM", "bmp"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
)


def picture_format(content: bytes) -> str | None:
    """Return the format of a picture that was accepted before, as `original_format` names it."""
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "webp"
    if content[4:8] == b"ftyp":
        return "avif"
    return next((name for signature, name in _SIGNATURES if content.startswith(signature)), None)


@contextmanager
def _whole(place: str) -> Iterator[None]:
    """Turn what a torn or altered file makes of its reader into a DatasetError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatasetError(f"{place}: missing, though its shard is committed") from error
    except (tarfile.TarError, BadRecord, EOFError) as error:
        raise DatasetError(f"{place}: damaged: {error}") from error


@contextmanager
def _local_copy(storage: Storage, name: str) -> Iterator[Path]:
    """Give a path of this machine at which the file is while the context lasts."""
    if storage.path is not None:
        path = storage.path / name
        if not path.exists():
            raise DatasetError(f"{path}: missing, though its shard is committed")
        yield path
        return
    with tempfile.TemporaryDirectory(dir=storage.make_work()) as folder:
        path = Path(folder) / "copy"
        with _whole(f"{storage.url}/{name}"), storage.open_file(name) as source, path.open("wb") as target:
            while block := source.read(COPY_BYTES):
                target.write(block)
        yield path
