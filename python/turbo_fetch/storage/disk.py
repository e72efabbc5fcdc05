"""Files that are on disk, whole, before anything relies on them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

SYNCS_AT_ONCE: Final = 8


def replace_with(target: Path, content: bytes) -> None:
    """Make `target` hold `content`: a reader, or a crash, finds the old or the new.

    OSError if the disk does not take it.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_one(target.parent)


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
