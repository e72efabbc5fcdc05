"""`lmdb`: `NNNNN.lmdb`, an LMDB environment in one file, with ASCII keys and values that need no decoder.

| Key | Value |
|---|---|
| `key.jpg`, `key.128.jpg`, `key.json`, `key.txt` | what the member of that name is in `webdataset` |
| `__keys__NNNNN` | the keys of the samples of shard NNNNN, in order, each ended by a line feed |
| `__meta__` | JSON: `format`, `version`, `extension` (of images), `samples`, `shards` |

An environment merged from several shards has the same records, with one `__keys__NNNNN` per shard. The file is
a function of the samples, the version of LMDB and the page size of the machine.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import orjson
import pyarrow as pa

from turbo_fetch.dataset.formats.format import Format, NamedShard, StoredImage, reading, together
from turbo_fetch.dataset.formats.images import extension_of
from turbo_fetch.dataset.formats.members import TEXTS, Member, members
from turbo_fetch.dataset.formats.staged_file import WrittenFile
from turbo_fetch.dataset.samples import Samples
from turbo_fetch.errors import DatasetError, MissingExtra, OutputError
from turbo_fetch.spec import ImageSpec
from turbo_fetch.storage import Storage
from turbo_fetch.storage.failures import write_error

SUFFIX: Final = ".lmdb"
META_KEY: Final = b"__meta__"
KEYS_PREFIX: Final = b"__keys__"
SOURCE_KEY: Final = b"__source__"
"""The record, only there while a merged environment is unfinished, that says what it is made from."""
VERSION: Final = 1
TRANSACTION_BYTES: Final = 16 << 20

_BLOCK_BYTES: Final = 1 << 20
_PAGES_PER_RECORD: Final = 2
_SPARE_BYTES: Final = 1 << 20


def lmdb_package() -> ModuleType:
    """Return the package `lmdb`; raises MissingExtra if it is not installed."""
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise MissingExtra("lmdb", "lmdb", "the format lmdb") from error
    return lmdb


class Environment:
    """An LMDB file while it is written, in transactions of about 16 MB; OutputError where that fails.

    Where transactions end depends on the records alone, and so do the bytes of a new file. One that can be resumed is
    on disk after each transaction, and is opened anew for the next: what LMDB remembers of those before would show in
    the bytes. Put again, transactions that it has are left as they are.
    """

    def __init__(self, path: Path, is_resumable: bool = False) -> None:
        self._lmdb = lmdb_package()
        self._path = path
        self._is_resumable = is_resumable
        self._pending: list[tuple[bytes, bytes | memoryview]] = []
        self._pending_bytes = 0
        self._env = self._open()
        self._page_bytes = self._env.stat()["psize"]
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            self._last = bytes(cursor.key()) if cursor.last() else b""

    def _open(self) -> Any:
        try:
            return self._lmdb.open(
                str(self._path),
                map_size=_SPARE_BYTES,
                subdir=False,
                lock=False,
                sync=self._is_resumable,
                mode=0o644,
            )
        except self._lmdb.Error as error:
            raise self._explained(error) from error

    def get(self, key: bytes) -> bytes | None:
        """Return a committed value, or None."""
        with self._env.begin() as transaction:
            value: bytes | None = transaction.get(key)
            return value

    def put(self, records: Sequence[tuple[bytes, bytes | memoryview]]) -> None:
        """Write records, which replace those of the same keys and go into one transaction.

        Contents must not change until the next commit.
        """
        self._pending += records
        self._pending_bytes += sum(len(value) for _, value in records)
        if self._pending_bytes >= TRANSACTION_BYTES:
            self.commit()

    def delete(self, key: bytes) -> None:
        """Commit, and delete a record."""
        self.commit()
        self._begin_anew()
        with self._env.begin(write=True) as transaction:
            transaction.delete(key)

    def commit(self) -> None:
        """Write what was put."""
        records, self._pending, self._pending_bytes = self._pending, [], 0
        if self._is_resumable and (not records or self.get(records[-1][0]) is not None):
            return
        self._begin_anew()
        try:
            self._make_room(records)
            with self._env.begin(write=True) as transaction:
                for key, value in records:
                    if key <= self._last and not key.startswith(b"__"):
                        _refuse_another(key, value, transaction.get(key))
                    # Appending fills pages; LMDB takes it only for keys that come in order.
                    transaction.put(key, value, append=key > self._last)
                    self._last = max(self._last, key)
        except self._lmdb.Error as error:
            raise self._explained(error) from error

    def sync(self) -> None:
        """Commit, and bring all that was committed to disk."""
        self.commit()
        try:
            self._env.sync(True)
        except self._lmdb.Error as error:
            raise self._explained(error) from error

    def close(self) -> None:
        """Close the file; what was not committed is dropped."""
        self._env.close()

    def _begin_anew(self) -> None:
        if self._is_resumable:
            self._env.close()
            self._env = self._open()

    def _make_room(self, records: Sequence[tuple[bytes, bytes | memoryview]]) -> None:
        """Let the map grow to a power of two that surely holds the records as well."""
        information = self._env.info()
        used = (information["last_pgno"] + 1) * self._page_bytes
        values = sum(len(value) for _, value in records)
        needed = used + values + len(records) * _PAGES_PER_RECORD * self._page_bytes + _SPARE_BYTES
        if needed > information["map_size"]:
            self._env.set_mapsize(1 << (needed - 1).bit_length())

    def _explained(self, error: Exception) -> OutputError:
        full = "No space left" in str(error) or "quota" in str(error)
        cause = OSError(errno.ENOSPC, str(error)) if full else error
        return write_error(cause, str(self._path), 0)


class LmdbFile:
    """An environment in the work folder, filled sample by sample; what an earlier attempt left is removed."""

    def __init__(self, path: Path, _metadata: pa.Schema, image: ImageSpec) -> None:
        self._path = path
        self._extension = extension_of(image)
        path.unlink(missing_ok=True)
        self._environment = Environment(path)
        self._keys: list[str] = []

    def add(self, samples: Samples) -> None:
        """Write the samples that have an image."""
        self._keys += _put_samples(self._environment, samples, self._extension)

    def finish(self, name: str) -> WrittenFile:
        """Write the keys and the meta record; return the file, to be published as `name`."""
        self._environment.put([_keys_record(name.removesuffix(SUFFIX), self._keys)])
        self._environment.put([_meta_record(self._extension, len(self._keys), 1)])
        self._environment.commit()
        self.close()
        digest = hashlib.sha256()
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        return WrittenFile(name, self._path, self._path.stat().st_size, digest.hexdigest())

    def close(self) -> None:
        """Close the file, finished or not."""
        self._environment.close()


def _refuse_another(key: bytes, value: bytes | memoryview, before: bytes | None) -> None:
    """Raise DatasetError if a record is there with another value: samples of two shards have the same key."""
    if before is not None and before != bytes(value):
        raise DatasetError(
            f"{key.decode()} is in two shards; expected keys that are unique in the whole dataset to make one file of "
            "it: another fetch.output.key_column"
        )


def _merge(path: Path, identity: bytes, image: ImageSpec, shards: Iterable[NamedShard]) -> int:
    """See Format. The keys of a shard are written last: what was interrupted goes on after the last whole shard."""
    with closing(_unfinished(path, identity)) as environment:
        extension, counts = extension_of(image), []
        for shard, batches in shards:
            known = environment.get(_keys_record(shard, [])[0])
            if known is None:
                keys = [key for batch in batches for key in _put_samples(environment, batch, extension)]
                environment.put([_keys_record(shard, keys)])
                environment.sync()
            counts.append(len(keys) if known is None else known.count(b"\n"))
        environment.delete(SOURCE_KEY)
        environment.put([_meta_record(extension, sum(counts), len(counts))])
        environment.sync()
    return sum(counts)


def _unfinished(path: Path, identity: bytes) -> Environment:
    """Open the environment in a file that is made from `identity`, or begin it there."""
    try:
        environment = Environment(path, is_resumable=True)
    except OutputError:
        # What power loss left of its first page, if it is no full disk.
        os.truncate(path, 0)
        environment = Environment(path, is_resumable=True)
    if environment.get(SOURCE_KEY) != identity:
        environment.close()
        os.truncate(path, 0)
        environment = Environment(path, is_resumable=True)
        environment.put([(SOURCE_KEY, identity)])
        environment.commit()
    return environment


def _put_samples(environment: Environment, samples: Samples, extension: str) -> list[str]:
    """Write the samples that have an image, each into one transaction; return their keys."""
    keys = []
    for key, sample in groupby(members(samples, lambda _: extension), key=_key):
        keys.append(key)
        environment.put(sorted((member.name.encode("ascii"), member.content) for member in sample))
    return keys


def _key(member: Member) -> str:
    return member.name.partition(".")[0]


def _keys_record(shard: str, keys: Sequence[str]) -> tuple[bytes, bytes]:
    return KEYS_PREFIX + shard.encode(), "".join(f"{key}\n" for key in keys).encode()


def _meta_record(extension: str, samples: int, shards: int) -> tuple[bytes, bytes]:
    """Return the record that says what an environment holds."""
    meta = {
        "format": "turbo-fetch lmdb",
        "version": VERSION,
        "extension": extension,
        "samples": samples,
        "shards": shards,
    }
    return META_KEY, orjson.dumps(meta)


def _read_images(storage: Storage, name: str, sizes: Sequence[str]) -> Iterator[StoredImage]:
    return together(f"{storage.url}/{name}{SUFFIX}", _members(storage, name), sizes)


def _members(storage: Storage, name: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, extension and content of each image, in the order of the rows.

    A shard that is elsewhere is copied here first, for LMDB maps files.
    """
    lmdb = lmdb_package()
    with (
        reading(f"{storage.url}/{name}{SUFFIX}", lmdb.Error),
        _local_copy(storage, f"{name}{SUFFIX}") as path,
        lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
        transaction.cursor() as cursor,
    ):
        whole_bytes = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        # Beyond the end of a file that was cut off its mapped memory cannot be read: the process would be killed.
        if path.stat().st_size < whole_bytes:
            raise EOFError(f"ends after {path.stat().st_size:,} of {whole_bytes:,} bytes")
        keys = transaction.get(_keys_record(name, [])[0], b"").decode("ascii", "replace").split()
        rows = {key: row for row, key in enumerate(keys)}
        images = []
        for key in cursor.iternext(values=False):
            stem, _, extension = key.decode("ascii", "replace").partition(".")
            if not key.startswith(KEYS_PREFIX[:2]) and extension not in TEXTS:
                images.append((rows.get(stem, len(rows)), stem, extension, key))
        for _, stem, extension, key in sorted(images):
            yield stem, extension, transaction.get(key)


@contextmanager
def _local_copy(storage: Storage, name: str) -> Iterator[Path]:
    """Give a path of this machine at which the file is while the context lasts."""
    if storage.path is not None:
        path = storage.path / name
        if not path.exists():
            raise FileNotFoundError(path)
        yield path
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(dir=storage.make_work()) as folder:
        path = Path(folder) / "copy"
        with storage.open_file(name) as source, path.open("wb") as target:
            while block := source.read(_BLOCK_BYTES):
                target.write(block)
        yield path


FORMAT: Final = Format(
    loads_in="lmdb, torch DataLoader",
    suffix=SUFFIX,
    writer=LmdbFile,
    read_images=_read_images,
    check_package=lmdb_package,
    croissant_files=lambda image: (f"*{SUFFIX}", "application/octet-stream"),
    merge=_merge,
)
