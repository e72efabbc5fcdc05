"""The manifest: one line per committed shard, checked against what is really there.

The commit record of a shard is its `NNNNN_stats.json`, published last; the manifest gathers those records,
without what only concerns their making (times, messages). So a parent that is killed between the two loses
nothing: the next one adopts the record. Lines are in the order of shards once a run has ended.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from turbo_fetch.dataset import names
from turbo_fetch.dataset.replacement import finish_replacements
from turbo_fetch.dataset.seal import SEAL, is_intact, sealed
from turbo_fetch.plan.part import Part
from turbo_fetch.storage import Listing, Storage
from turbo_fetch.storage.disk import make_folder, sync_one, unfinished
from turbo_fetch.storage.failures import explained

Item = TypeVar("Item")
Record = dict[str, Any]
"""A commit record: what a shard holds, and which files it has."""

PUT_EVERY_S: Final = 30.0
"""An object store takes whole objects only, so there the manifest is put anew at most this often."""
PUT_SHARE: Final = 0.02
"""Share of the time that putting a large manifest may take."""
RECORDS_AT_ONCE: Final = 1000
"""That are adopted together."""
READERS: Final = 16
"""Of commit records at once: an object store takes its time for each."""

_LEFT_OUT: Final = frozenset({"count", "duration", "start_time", "end_time", "status_dict", SEAL})
_NEEDED: Final = frozenset({"shard", "rows", "outcomes", "files", "failing_hosts"})


class Manifest:
    """The committed shards of a dataset; a context manager. One writer at a time; calls block.

    Records stay in a local file, in the place itself if that is local, and are read from there: memory holds
    one id per shard, however many there are.
    """

    def __init__(self, storage: Storage, path: Path, part: Part | None) -> None:
        self._storage = storage
        self._path = path
        self._part = part
        self._committed: set[int] = set()
        self._withdrawn: frozenset[int] = frozenset()
        self._last = -1
        self._in_order = True
        self._is_put = True
        self._put_s = time.monotonic()
        self._put_took_s = 0.0
        self._descriptor = -1

    @classmethod
    def open(cls, storage: Storage, part: Part | None = None) -> Manifest:
        """Read the manifest, drop what is not there, adopt what it lacks, and write it anew if it changed.

        Shards whose files were being replaced when a command was killed are published first.
        A record counts only if its `NNNNN_stats.json` is there and each of its files has the recorded size.
        Of a part of the shards it has those alone, and stays in the work folder: the commit records say it all.
        Raises OutputError if the place cannot be read, or the manifest not be written.
        """
        finish_replacements(storage)
        path = _local_path(storage, part)
        manifest = cls(storage, path, part)
        listing = _listing(storage)
        with explained(str(path)):
            if part is None or not path.exists():
                _fetch(storage, path, part)
            if not manifest._is_sound(listing):
                manifest._committed, manifest._last, manifest._in_order = set(), -1, True
                manifest._rewrite(manifest._whole(listing))
        manifest._adopt(listing)
        return manifest

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def committed(self) -> frozenset[int]:
        """The ids of the committed shards."""
        return frozenset(self._committed)

    def records(self) -> Iterator[Record]:
        """Yield the commit records as they stand in the manifest, one in memory at a time.

        All lines are whole: they were read when it was opened, or written since.
        """
        with self._path.open("rb") as file:
            for line in file:
                record: Record = orjson.loads(line)
                record.pop(SEAL, None)
                yield record

    def lost(self) -> dict[int, str]:
        """Return the committed shards that are not whole any more, by id, each with a file that it lacks.

        Somebody deleted them meanwhile; or this file, which then is what they lack.
        """
        listing = _listing(self._storage)
        lost = dict.fromkeys(sorted(self._committed), str(self._path))
        with suppress(FileNotFoundError):
            whole = set(listing.check(self._path))
            lost = {shard: name for shard, name in lost.items() if shard not in whole}
            for record in _read(self._path) if lost else ():
                if (lacking := _lacking(record, listing)) is not None:
                    lost[record["shard"]] = lacking
                else:
                    lost.pop(record["shard"], None)
        return lost

    def commit(self, record: Mapping[str, Any]) -> None:
        """Add a commit record, durably where the place is local; ValueError if the shard has one already.

        Raises OutputError if it cannot be written; the manifest then is as it was.
        """
        if record["shard"] in self._committed:
            raise ValueError(f"shard {record['shard']} is committed already")
        line = _line(record)
        with explained(str(self._path), len(line)):
            self._append(line)
        self._note(record["shard"])
        self._is_put = False
        if time.monotonic() - self._put_s >= max(PUT_EVERY_S, self._put_took_s / PUT_SHARE):
            self._put()

    def withdraw(self, shards: Iterable[int]) -> None:
        """Take out the records of shards that are to be written anew, so that they can be committed again.

        Those that are not are taken back when the manifest is closed, or opened the next time.
        """
        self._withdrawn = (self._withdrawn - self._committed) | (frozenset(shards) & self._committed)
        kept = (record for record in _read(self._path) if record["shard"] not in self._withdrawn)
        self._committed, self._last = set(), -1
        with explained(str(self._path)):
            self._rewrite(kept)

    def take(self, records: Iterable[Record]) -> None:
        """Add the records of shards that were published, in place of those that they had."""
        found = list(records)
        again = self._committed & {record["shard"] for record in found}
        if again:
            self.withdraw(again)
        for record in found:
            self.commit(record)

    def flush(self) -> None:
        """Bring the records to where readers find them, which for an object store is not done with each."""
        self._put()

    def close(self) -> None:
        """Bring the lines into the order of shards and publish them. Further calls do nothing."""
        left, self._withdrawn = self._withdrawn - self._committed, frozenset()
        if left:
            self._adopt(_listing(self._storage), left)
        self._close_file()
        if not self._in_order:
            with explained(str(self._path)):
                in_order = self._new_beside()
                _sort(self._path, in_order)
                self._replace_by(in_order)
            self._in_order = True
        self._put()

    def _is_sound(self, listing: Listing) -> bool:
        """Note the shards of the file, if each of its lines is the record of another one that is there whole."""
        shards = listing.check(self._path)
        for shard in shards:
            if shard is None or not self._is_of_part(shard):
                return False
            self._note(shard)
        return len(self._committed) == len(shards)

    def _whole(self, listing: Listing) -> Iterator[Record]:
        """Yield the records of the file whose shards are there whole, each once."""
        for record in _read(self._path):
            is_new = record["shard"] not in self._committed and self._is_of_part(record["shard"])
            if is_new and _lacking(record, listing) is None:
                yield record

    def _is_of_part(self, shard: int) -> bool:
        return self._part is None or self._part.has(shard)

    def _adopt(self, listing: Listing, among: Container[int] | None = None) -> None:
        """Add the records of shards that are published whole without one, of some shards alone or of all."""
        for found in _batched(self._unrecorded(listing, among)):
            with explained(str(self._path)):
                self._append(b"".join(map(_line, found)))
            for record in found:
                self._note(record["shard"])
            self._is_put = False

    def _unrecorded(self, listing: Listing, among: Container[int] | None) -> Iterator[Record]:
        others = listing.shards_beside(list(self._committed))
        wanted = (
            name for name in others if self._is_of_part(int(name)) and (among is None or int(name) in among)
        )
        with ThreadPoolExecutor(READERS) as pool:
            for some in _batched(wanted):
                for record in pool.map(partial(read_record, self._storage), some):
                    if record is not None and _lacking(record, listing) is None:
                        yield record

    def _rewrite(self, records: Iterable[Record]) -> None:
        """Make the file hold `records` and nothing else, atomically."""
        self._close_file()
        renewed = self._new_beside()
        with renewed.open("wb") as file:
            for record in records:
                self._note(record["shard"])
                file.write(_line(record))
            file.flush()
            if not _content_differs(renewed, self._path):
                renewed.unlink()
                return
            os.fsync(file.fileno())
        self._replace_by(renewed)
        self._is_put = False

    def _new_beside(self) -> Path:
        """Return where to make another file; one that a run which lost the lease is writing there has no name then."""
        self._storage.check_fence()
        path = unfinished(self._path, self._storage.holder)
        path.unlink(missing_ok=True)
        return path

    def _replace_by(self, whole: Path) -> None:
        """Put another file in its place, unless that is another run's by now."""
        self._storage.check_fence()
        whole.replace(self._path)
        sync_one(self._path.parent)

    def _close_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _note(self, shard: int) -> None:
        self._committed.add(shard)
        self._in_order = self._in_order and shard > self._last
        self._last = shard

    def _append(self, line: bytes) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # Last, for the file may be another run's by the time that it is open.
        self._storage.check_fence()
        end = os.fstat(self._descriptor).st_size
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise

    def _put(self) -> None:
        if self._storage.is_local or self._is_put or self._part is not None:
            return
        begun_s = time.monotonic()
        copy = self._new_beside()
        with explained(str(copy)):
            shutil.copyfile(self._path, copy)
        self._storage.publish(copy, names.MANIFEST)
        self._put_s = time.monotonic()
        self._put_took_s = self._put_s - begun_s
        self._is_put = True


def _listing(storage: Storage) -> Listing:
    """Return what lies beside the shards, and the ledgers."""
    listing = Listing()
    storage.enter(listing)
    storage.enter(listing, names.LEDGERS)
    return listing


def _lacking(record: Record, listing: Listing) -> str | None:
    """Return the name of a file that a shard lacks, its commit record included; None if it is there whole."""
    for file in record["files"]:
        if not listing.has(file["name"], file["bytes"]):
            return str(file["name"])
    if listing.has_record(record["shard"]):
        return None
    return names.stats(record.get("name", names.shard_name(record["shard"])))


def _batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    source = iter(items)
    return iter(lambda: list(islice(source, RECORDS_AT_ONCE)), [])


def read_manifest(storage: Storage) -> Iterator[Record]:
    """Yield the records of a manifest whose lines are intact; nothing if there is no manifest."""
    try:
        yield from (record for record in read_lines(storage) if record is not None)
    except FileNotFoundError:
        return


def read_lines(storage: Storage) -> Iterator[Record | None]:
    """Yield the record of each line of a manifest, None if it is damaged; FileNotFoundError if there is no manifest."""
    with storage.open_file(names.MANIFEST) as file:
        for line in file:
            yield _parse(line)


def read_record(storage: Storage, name: str) -> Record | None:
    """Return the commit record of the shard of this name; None if there is none, or what is there is none."""
    try:
        return _parse(storage.read_bytes(names.stats(name)))
    except FileNotFoundError:
        return None


def record_digest(record: Mapping[str, Any]) -> str:
    """Return what stands for all that a manifest keeps of a commit record."""
    kept = {name: value for name, value in record.items() if name not in _LEFT_OUT}
    return hashlib.sha256(orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _local_path(storage: Storage, part: Part | None) -> Path:
    if part is not None:
        return storage.make_work() / names.part_manifest(part.scope)
    path = (storage.path or storage.make_staging()) / names.MANIFEST
    with explained(storage.url):
        make_folder(path.parent)
    return path


def _fetch(storage: Storage, path: Path, part: Part | None) -> None:
    """Bring the manifest of a remote place here: what an earlier run left here may be out of date."""
    if storage.is_local and part is None:
        path.touch()
        return
    try:
        path.write_bytes(storage.read_bytes(names.MANIFEST))
    except FileNotFoundError:
        path.write_bytes(b"")


def _line(record: Mapping[str, Any]) -> bytes:
    return sealed({name: value for name, value in record.items() if name not in _LEFT_OUT})


def _read(path: Path) -> Iterator[Record]:
    """Yield the records of all whole lines; a torn or garbled line is no record."""
    with path.open("rb") as file:
        for line in file:
            record = _parse(line) if line.endswith(b"\n") else None
            if record is not None:
                yield record


def _parse(content: bytes) -> Record | None:
    """Return the commit record that `content` is, or None if it is damaged or none, as img2dataset's statistics are."""
    try:
        record = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or not record.keys() >= _NEEDED or not is_intact(content):
        return None
    record.pop(SEAL, None)
    return record


def _sort(path: Path, in_order: Path) -> None:
    """Write the lines of a file in the order of shards to another one; one is in memory at a time."""
    places: list[tuple[int, int]] = []
    with path.open("rb") as file, in_order.open("wb") as target:
        offset = 0
        for line in file:
            places.append((orjson.loads(line)["shard"], offset))
            offset += len(line)
        for _, place in sorted(places):
            file.seek(place)
            target.write(file.readline())
        target.flush()
        os.fsync(target.fileno())


def _content_differs(first: Path, second: Path) -> bool:
    if first.stat().st_size != second.stat().st_size:
        return True
    with first.open("rb") as one, second.open("rb") as other:
        return any(line != its for line, its in zip(one, other, strict=True))
