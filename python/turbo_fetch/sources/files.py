"""Files of this machine, confined to the folders that the spec names.

A path is resolved first, with its symbolic links, and has to be inside of one of the folders, resolved too. It is then
opened part by part from the folder on, following no further link, so that nothing that changes meanwhile leads outside.
Only regular files are opened: to open a device or a pipe may already do something.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from turbo_fetch.fetch.failures import KnownFailure
from turbo_fetch.outcomes import Outcome
from turbo_fetch.sources.source import CHUNK_BYTES, refused

OUTSIDE: Final = "outside of the folders in fetch.sources.files"
UNMOUNTED: Final = (
    Outcome.UNREADABLE,
    "its folder is empty or gone: is a disk not mounted?",
)
_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
# A file that became a pipe meanwhile does not block.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Files:
    """The regular files in some folders, their subfolders included."""

    is_remote = False

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = tuple(Path(root) for root in roots)

    def chunks(self, address: str, start: int, stop: int | None) -> Iterator[bytes]:
        """See Source; `address` is a path or a `file:` URL."""
        with os.fdopen(self._open(path_in(address)), "rb") as file:
            if start:
                file.seek(start)
            at = start
            while True:
                wanted = CHUNK_BYTES if stop is None else min(CHUNK_BYTES, stop - at)
                chunk = file.read(wanted)
                at += len(chunk)
                yield chunk
                if len(chunk) < CHUNK_BYTES:
                    return

    def _open(self, path: Path) -> int:
        """Return a descriptor of a file; raises KnownFailure or OSError."""
        resolved = self._found(path)
        for root in self._roots:
            folder = _resolved(root)
            if resolved != folder and resolved.is_relative_to(folder):
                try:
                    return _open_inside(folder, resolved.relative_to(folder).parts)
                except FileNotFoundError:
                    if _is_unmounted(resolved, folder):
                        raise KnownFailure(UNMOUNTED) from None
                    raise
        raise refused(OUTSIDE)

    def _found(self, path: Path) -> Path:
        """Return the path without links; a relative one in the first folder that has it."""
        if path.is_absolute():
            return _resolved(path)
        candidates = [_resolved(root / path) for root in self._roots]
        return next((each for each in candidates if each.exists()), candidates[0])


def path_in(address: str) -> Path:
    """Return the path that a path or a `file:` URL (RFC 8089) names; raises KnownFailure if it names none."""
    scheme, colon, rest = address.partition(":")
    if not colon or scheme.lower() != "file":
        path = address
    else:
        host, slash, name = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
        if host.lower() not in {"", "localhost"}:
            raise refused("a file of another machine")
        path = os.fsdecode(unquote_to_bytes(slash + name.partition("#")[0].partition("?")[0]))
        if not path.startswith("/"):
            raise KnownFailure((Outcome.URL, "not an absolute file URL"))
    if "\0" in path:
        raise KnownFailure((Outcome.URL, "a path with a null character"))
    return Path(path)


def _resolved(path: Path) -> Path:
    # Unlike Path.resolve, it takes loops as they are.
    return Path(os.path.realpath(path))


def _open_inside(folder: Path, parts: Sequence[str]) -> int:
    """Open a regular file in a folder, which has no links above it, nor anywhere on the way to the file."""
    at = os.open(folder, _FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER, dir_fd=at)
            os.close(at)
            at = inner
        _check_regular(os.stat(parts[-1], dir_fd=at, follow_symlinks=False).st_mode)
        descriptor = os.open(parts[-1], _FILE, dir_fd=at)
    finally:
        os.close(at)
    try:
        _check_regular(os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_unmounted(file: Path, root: Path) -> bool:
    """Whether a file is missing as all files are of a disk that is not mounted: there is no root, or nothing in the
    folder that the way to the file leads to."""
    if not root.is_dir():
        return True
    there = next(each for each in file.parents if each == root or each.is_dir())
    with os.scandir(there) as entries:
        return next(entries, None) is None


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise KnownFailure((Outcome.NOT_FOUND, "a folder" if stat.S_ISDIR(mode) else "not a regular file"))
