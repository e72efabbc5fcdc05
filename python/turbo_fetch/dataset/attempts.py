"""Exactly once on a cluster: workers publish aside, and one parent moves whole shards to where they belong.

A worker that seems to be lost may still be alive, and goes on publishing while another one has its shards. So each
worker has a folder of the output to itself, its attempt, and only the parent gives files their final names: the
first attempt of a shard that says it is done, and no other. What is left in attempts when a run ends, or a new
parent begins, are whole shards that nobody took, which are taken then, and garbage.

A shard that is committed already, as in a retry, gets another version in the same way. The attempt says last which
version that replaces: it is taken where that one still is, or has been taken out to make place for it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson

from turbo_fetch.dataset import names
from turbo_fetch.dataset.manifest import Record, read_record, record_digest
from turbo_fetch.dataset.place import spool_folder
from turbo_fetch.errors import OutputError
from turbo_fetch.storage import Storage, url_digest


@dataclass(frozen=True, slots=True)
class Replaced:
    """The version of a committed shard that an attempt has another one of. It can be pickled."""

    digest: str
    """What stands for its commit record."""
    files: Mapping[str, str]
    """The sha256 of its files: one that is the same in the new version is neither published nor moved."""
    reports: tuple[str, ...] = ()
    """Names of files that are published beside the new version, and moved after it."""

    @classmethod
    def by(cls, record: Record, *reports: str) -> Self:
        """Return the version that has this commit record, to be replaced by one that comes with `reports`."""
        files = {file["name"]: file["sha256"] for file in record["files"]}
        return cls(record_digest(record), files, reports)


def note_replaced(place: Storage, record: Record, replaced: Replaced) -> None:
    """Say in an attempt, which has all files of a new version, which one that replaces."""
    content = orjson.dumps({"record": record, "replaced": asdict(replaced)})
    place.write_bytes(names.replaced(record["name"]), content)


def light_beacon(storage: Storage) -> str:
    """Return what a worker must find in the output to prove that it sees the same one as the parent.

    It stays until the dataset is complete or overwritten, so it also tells whose the spools on a machine are.
    """
    try:
        return storage.read_bytes(names.BEACON).decode("ascii", "replace")
    except FileNotFoundError:
        beacon = secrets.token_hex(8)
        storage.write_bytes(names.BEACON, beacon.encode())
        return beacon


def new_attempt(beacon: str) -> str:
    """Return the name of an attempt, which no other has."""
    return f"{beacon}-{secrets.token_hex(8)}"


def open_attempt(storage: Storage, attempt: str, spool: str | None) -> Storage:
    """Return the place of a worker's attempt, with a work folder that is its own on this machine.

    Raises OutputError if this machine does not see the output that the parent sees.
    """
    beacon, _, name = attempt.partition("-")
    _see_beacon(storage, beacon)
    shared = spool_folder(spool) / f"{url_digest(storage.url)}-{beacon}"
    work = shared / name
    work.mkdir(parents=True, exist_ok=True)
    _hold(work)
    return storage.inside(names.attempt(attempt), work)


@contextmanager
def opened(storage: Storage, attempt: str, spool: str | None) -> Iterator[Storage]:
    """Have an attempt open while the context lasts; raises as `open_attempt`."""
    place = open_attempt(storage, attempt, spool)
    try:
        yield place
    finally:
        close_attempt(place)


def adopt_spools(place: Storage, shard: str) -> None:
    """Take over the spools of a shard, by its name, that a dead worker of the same dataset left on this machine.

    Those that belong to a worker that is alive are left to it.
    """
    for name in (names.spool(shard), names.refresh_spool(shard)):
        _adopt(place, name)


def _adopt(place: Storage, name: str) -> None:
    for other in place.work.parent.iterdir():
        if other != place.work and (other / name).exists():
            with _held_if_dead(other) as is_dead:
                if is_dead:
                    (other / name).rename(place.work / name)
                    if not names.spools(other) and not names.spools(other, of_refresh=True):
                        shutil.rmtree(other, ignore_errors=True)
                    return


def close_attempt(place: Storage) -> None:
    """Delete the work folder of a worker that ends; what is in a spool is left for the next one."""
    work = place.work
    spools = {path for _, path in [*names.spools(work), *names.spools(work, of_refresh=True)]}
    for path in place.work.iterdir():
        if path not in spools:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with suppress(OSError):
        place.work.rmdir()
        place.work.parent.rmdir()
    # The process may live on, as those of Spark do, and what is left is for others.
    os.close(_held.pop(place.work))


def move_shard(
    storage: Storage, attempt: str, record: Mapping[str, Any], replaced: Replaced | None = None
) -> list[str]:
    """Give the files of a shard their final names, its commit record last; may be repeated.

    The record of the version that is `replaced` is deleted first, so that no reader mixes old files with new ones.
    Returns what is left under the old names, which is of no use any more. Raises OutputError if a file is neither in
    the attempt nor, from an earlier try, where it belongs.
    """
    stats = names.stats(record["name"])
    kept: Mapping[str, str] = {} if replaced is None else replaced.files
    changed = [file["name"] for file in record["files"] if kept.get(file["name"]) != file["sha256"]]
    if replaced is None:
        moved = [*changed, stats]
    elif replaced.digest == record_digest(record):
        moved = [*replaced.reports]
    else:
        storage.delete(stats)
        moved = [*changed, stats, *replaced.reports]
    folder = names.attempt(attempt)
    for name in moved:
        _move(storage, f"{folder}/{name}", name)
    if replaced is not None:
        return [f"{folder}/{name}" for name in (names.replaced(record["name"]), *moved)]
    return [] if storage.is_local else [f"{folder}/{name}" for name in moved]


def _move(storage: Storage, old: str, name: str) -> None:
    try:
        storage.move(old, name, is_left=True)
    except FileNotFoundError as error:
        if not storage.exists(name):
            raise OutputError(
                f"{storage.url}: {old} is gone; expected nobody but turbo-fetch to touch {names.ATTEMPTS}"
            ) from error


def recover(storage: Storage, committed: Container[int]) -> Iterator[Record]:
    """Move the whole shards that an earlier command left in attempts, and nobody took; yield their records.

    Taken are those that are not `committed`, and new versions of those that are.
    """
    taken: set[int] = set()
    attempts = storage.inside(names.ATTEMPTS, storage.work)
    whole: list[tuple[str, Record]] = []
    for attempt in sorted(entry.name for entry in attempts.list() if entry.bytes is None):
        place = attempts.inside(attempt, storage.work)
        found = sorted(entry.name for entry in place.list())
        for name in found:
            shard = names.shard_of_stats(name)
            if shard is not None and names.replaced(shard) not in found:
                whole.append((attempt, orjson.loads(place.read_bytes(name))))
        for name in filter(names.is_replaced, found):
            record = _replace(storage, attempt, orjson.loads(place.read_bytes(name)))
            if record is not None:
                taken.add(record["shard"])
                yield record
    for attempt, record in whole:
        if record["shard"] not in committed and record["shard"] not in taken:
            move_shard(storage, attempt, record)
            taken.add(record["shard"])
            yield record
    storage.delete(names.ATTEMPTS)


def _replace(storage: Storage, attempt: str, said: Mapping[str, Any]) -> Record | None:
    """Finish what an attempt says that it replaces; return its record if that was still to be done."""
    record: Record = said["record"]
    replaced = Replaced(**{**said["replaced"], "reports": tuple(said["replaced"]["reports"])})
    now = read_record(storage, record["name"])
    if now is None or record_digest(now) == replaced.digest:
        move_shard(storage, attempt, record, replaced)
        return record
    if record_digest(now) == record_digest(record):
        for name in replaced.reports:
            _move(storage, f"{names.attempt(attempt)}/{name}", name)
    return None


def discard_attempts(storage: Storage, is_complete: bool = True) -> None:
    """Delete what a command that has ended leaves beside its dataset; the beacon stays until that is complete."""
    storage.delete(names.ATTEMPTS)
    if is_complete:
        storage.delete(names.BEACON)


def _see_beacon(storage: Storage, beacon: str) -> None:
    try:
        seen = storage.read_bytes(names.BEACON).decode("ascii", "replace")
    except FileNotFoundError:
        seen = "nothing"
    if seen != beacon:
        raise OutputError(
            f"{storage.url}: the machine {os.uname().nodename} does not see the output that the driver sees "
            f"(expected {beacon} in {names.BEACON}, found {seen}); use an object store or a folder that all "
            "machines share"
        )


_held: Final[dict[Path, int]] = {}
"""Descriptors of the locks of this process's work folders."""


def _hold(work: Path) -> None:
    """Lock a work folder until its attempt is closed or this process ends, whatever ends it."""
    descriptor = os.open(work / names.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    _held[work] = descriptor


@contextmanager
def _held_if_dead(work: Path) -> Iterator[bool]:
    """Hold the lock of another worker's folder, if that worker is dead; yield whether it is."""
    descriptor = os.open(work / names.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another worker may have emptied and deleted the folder in the meantime.
        yield os.fstat(descriptor).st_nlink > 0
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
