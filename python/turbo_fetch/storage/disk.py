"""Files that are on disk, whole, before anything relies on them."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

SYNCS_AT_ONCE: Final = 8
LOCK_WAIT_S: Final = 10.0
_END: Final = re.compile(r"(\.[0-9a-f]{6,})?\.tmp$")
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


def unfinished(target: Path, holder: str = "") -> Path:
    """Return where the content of `target` is until it is whole.

    The same name each time, for each `holder`, a number in hex: what a killed process left there is replaced when the
    write is done again, and may be discarded before.
    """
    return target.with_name(f".{target.name}{holder and '.'}{holder}.tmp")


def unfinished_in(folder: Path) -> dict[Path, str]:
    """Return what is unfinished in a folder, which need not exist, each with the name of its target."""
    return {path: _END.sub("", path.name[1:]) for path in folder.glob(".?*.tmp")}


def discard_unfinished(path: Path) -> None:
    """Delete what a killed process left, a file or a folder, unless another one is writing it by `replace_with`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return
    with suppress(BlockingIOError, FileNotFoundError), path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A file system without locks.
            if isinstance(error, BlockingIOError):
                raise
        path.unlink()


def free_bytes(path: Path) -> int:
    """Return how many bytes are free where a path is, or would be."""
    return shutil.disk_usage(existing_part(path)).free


def existing_part(path: Path) -> Path:
    """Return the path, or the nearest of the folders around it that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())


def make_folder(path: Path) -> None:
    """Make a folder, and those around it, where they are absent, so that their names are on disk too."""
    absent = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in reversed(absent):
        # Who may not read the folder around it cannot bring its names to disk.
        with suppress(PermissionError):
            sync_one(each.parent)


def replace_with(target: Path, content: bytes) -> None:
    """Make `target` hold `content`: a reader, or a crash, finds the old or the new.

    Of several processes that do so at once the last one wins, and one that stood still meanwhile fails. OSError if the
    disk does not take it.
    """
    temporary = unfinished(target)
    with _opened_alone(temporary) as file:
        try:
            file.truncate()
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if not _is_still_at(temporary, file):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(temporary))
            temporary.replace(target)
        except BaseException:
            if _is_still_at(temporary, file):
                temporary.unlink()
            raise
    sync_one(target.parent)


def create(target: Path, content: bytes) -> bool:
    """Make the file `target` with this content if there is none, and return whether there was none.

    A hard link is made by one only, on network file systems too, where the answer can be lost: links are counted.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    temporary.write_bytes(content)
    try:
        sync_one(temporary)
        try:
            target.hardlink_to(temporary)
        except OSError as error:
            if not temporary.exists():
                # Taken for a leftover by another process, while this one stood still.
                return create(target, content)
            if temporary.stat().st_nlink < 2:
                return error.errno in _NO_LINKS and _create_without_links(target, content)
    finally:
        temporary.unlink(missing_ok=True)
    sync_one(target.parent)
    return True


def _create_without_links(target: Path, content: bytes) -> bool:
    try:
        with target.open("xb") as file:
            file.write(content)
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


@contextmanager
def _opened_alone(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing, made if absent, when no other process has it open in this way.

    From one that has it for `LOCK_WAIT_S`, which stands still, the name is taken: a file takes no time to write.
    """
    give_up_s = time.monotonic() + LOCK_WAIT_S
    while True:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file:
            if not is_locked(file):
                if time.monotonic() > give_up_s:
                    path.unlink(missing_ok=True)
                else:
                    time.sleep(0.01)
            # Whoever had it before may have renamed it meanwhile.
            elif _is_still_at(path, file):
                yield file
                return


def is_locked(file: IO[bytes]) -> bool:
    """Lock a file until it is closed, and return whether this process has the lock, which another one may have.

    On a file system without locks nobody else has.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # One process at a time is then the user's to see to.
        return True
    return True


def _is_still_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def sync(path: Path) -> None:
    """Bring a file, or a folder with all that is in it, to disk; OSError if the disk did not take it."""
    if not path.is_dir():
        sync_one(path)
        return
    # Not os.sync: it waits for what all other programs write, and is silent about errors. The file system
    # brings the requests of several threads to disk together.
    with ThreadPoolExecutor(SYNCS_AT_ONCE, "sync") as threads:
        for _ in threads.map(sync_one, [path, *path.rglob("*")]):
            pass


def sync_one(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to disk; OSError if the disk did not take it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
