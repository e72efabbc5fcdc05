"""Exactly once on a cluster: workers publish aside, and one parent moves whole shards to where they belong.

A worker that seems to be lost may still be alive, and goes on publishing while another one has its shards. So each
worker has a folder of the output to itself, its attempt, and only the parent gives files their final names: the
first attempt of a shard that says it is done, and no other. What is left in attempts when a run ends, or a new
parent begins, are whole shards that nobody took, which are taken then, and garbage.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson

from turbo_fetch.dataset import names
from turbo_fetch.dataset.place import spool_folder
from turbo_fetch.errors import OutputError
from turbo_fetch.storage import Storage, url_digest


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


def adopt_spool(place: Storage, shard: str) -> None:
    """Take over the spool of a shard, by its name, that a dead worker of the same dataset left on this machine.

    One that belongs to a worker that is alive is left to it.
    """
    name = names.spool(shard)
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
    spools = {path for _, path in names.spools(place.work)}
    for path in place.work.iterdir():
        if path not in spools:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with suppress(OSError):
        place.work.rmdir()
        place.work.parent.rmdir()
    # The process may live on, as those of Spark do, and what is left is for others.
    os.close(_held.pop(place.work))


def move_shard(storage: Storage, attempt: str, record: Mapping[str, Any]) -> list[str]:
    """Give the files of a shard their final names, its commit record last; may be repeated.

    Returns what an object store still has under the old names, which is of no use any more. Raises OutputError if a
    file is neither in the attempt nor, from an earlier try, where it belongs.
    """
    moved = {
        f"{names.attempt(attempt)}/{name}": name
        for name in (*(file["name"] for file in record["files"]), names.stats(record["name"]))
    }
    for old, name in moved.items():
        try:
            storage.move(old, name, is_left=True)
        except FileNotFoundError as error:
            if not storage.exists(name):
                raise OutputError(
                    f"{storage.url}: {name} of the attempt {attempt} is gone; expected nobody but turbo-fetch "
                    f"to touch {names.ATTEMPTS}"
                ) from error
    return [] if storage.is_local else list(moved)


def recover(storage: Storage, committed: Container[int]) -> Iterator[Mapping[str, Any]]:
    """Move the whole shards that an earlier run left in attempts and that are not `committed`; yield their records."""
    taken: set[int] = set()
    attempts = storage.inside(names.ATTEMPTS, storage.work)
    for attempt in sorted(entry.name for entry in attempts.list() if entry.bytes is None):
        place = attempts.inside(attempt, storage.work)
        for entry in sorted(place.list(), key=lambda entry: entry.name):
            if names.shard_of_stats(entry.name) is None:
                continue
            record = orjson.loads(place.read_bytes(entry.name))
            if record["shard"] not in committed and record["shard"] not in taken:
                move_shard(storage, attempt, record)
                taken.add(record["shard"])
                yield record
    storage.delete(names.ATTEMPTS)


def discard_attempts(storage: Storage) -> None:
    """Delete what a run that has ended leaves beside its dataset."""
    storage.delete(names.ATTEMPTS)
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
