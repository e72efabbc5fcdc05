"""The changes to a repository of the Hub that wait for the next commit, on this machine's disk.

The processes of a run share it. A change of a file replaces an earlier one that still waits; all of them keep the
order in which they came, and those that one commit is to take are as they were at one moment.

Each holder of the lease has a folder of its own. It takes over that of the one before by renaming it, so that one that
has lost the lease, wherever it stood still, finds nothing there to change.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import orjson

Kind = Literal["content", "sent", "deleted"]
_Lock = Literal["mutex", "committing"]
_LOCKS: Final = get_args(_Lock)


class Change(NamedTuple):
    """What becomes of the file of a name: it has this content, or what was sent already, or is deleted."""

    name: str
    kind: Kind
    payload: bytes = b""


class Journal:
    """The changes of a holder of the lease that wait, below a work folder.

    Calls block; any number of processes may call. Those that change something raise FileNotFoundError when another
    holder has begun.
    """

    def __init__(self, work: Path, holder: str) -> None:
        self._all: Final = work / "hub"
        self._folder: Final = self._all / (holder or "nobody")
        self._waiting: Final = self._folder / "waiting"
        self._leaving: Final = self._folder / "leaving"
        self._head: Final = self._all / "head"

    def put(self, *changes: Change) -> None:
        """Have changes wait, all or, if this process is killed, the first ones."""
        with self._locked("mutex"):
            for change in changes:
                target = self._waiting / _file_name(change.name)
                # One process at a time comes here; what a killed one left is written over.
                unfinished = self._folder / "unfinished"
                head = orjson.dumps([change.name, change.kind])
                unfinished.write_bytes(head + b"\n" + change.payload)
                unfinished.replace(target)

    def find(self, name: str) -> Change | None:
        """Return what is to become of a file, None if nothing."""
        for folder in (self._waiting, self._leaving):
            try:
                return _parse((folder / _file_name(name)).read_bytes())
            except FileNotFoundError:
                continue
        return None

    def changes(self) -> dict[str, Change]:
        """Return all changes by name, in the order in which they came."""
        if not self._folder.exists():
            return {}
        with self._locked("mutex"):
            return self._read()

    def discard(self, names: list[str]) -> None:
        """Forget the changes of files."""
        if not names:
            return
        with self._locked("mutex"):
            for name in names:
                for folder in (self._waiting, self._leaving):
                    (folder / _file_name(name)).unlink(missing_ok=True)

    @contextmanager
    def leaving(self) -> Iterator[dict[str, Change]]:
        """Yield all changes for a commit; they are forgotten when the context ends well. One at a time does so."""
        if not self._folder.exists():
            yield {}
            return
        with self._locked("committing"):
            with self._locked("mutex"):
                changes = self._read()
                self._leaving.mkdir(exist_ok=True)
                for path in self._waiting.glob("*"):
                    path.replace(self._leaving / path.name)
            yield changes
            with self._locked("mutex"):
                shutil.rmtree(self._leaving, ignore_errors=True)

    def begin(self, before: str | None, head: str) -> None:
        """Become the journal of a run that begins with a commit after `before`, and take over what earlier ones left.

        It counts if nothing was in between; with None it is not known what was.
        """
        # One that stood still before this may have lost the lease again.
        folders = sorted(each for each in self._all.glob("*/") if each.name < self._folder.name)
        last = folders[-1] if folders and self._seen() == before else None
        if last is not None:
            last.rename(self._folder)
            for name in _LOCKS:
                # One that stands still may have it.
                (self._folder / name).unlink(missing_ok=True)
        for folder in folders:
            if folder != last:
                shutil.rmtree(folder, ignore_errors=True)
        self._waiting.mkdir(parents=True, exist_ok=True)
        self._head.write_text(head)

    def follow(self, before: str, head: str) -> None:
        """Note that the commit `head` of this machine followed `before`."""
        if self._seen() == before:
            self._head.write_text(head)

    def _seen(self) -> str:
        return self._head.read_text() if self._head.exists() else ""

    def _read(self) -> dict[str, Change]:
        found = {path.name: path for folder in (self._leaving, self._waiting) for path in folder.glob("*")}
        in_order = sorted(found.values(), key=lambda path: path.stat().st_mtime_ns)
        return {change.name: change for change in (_parse(path.read_bytes()) for path in in_order)}

    @contextmanager
    def _locked(self, name: _Lock) -> Iterator[None]:
        with (self._folder / name).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _file_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _parse(content: bytes) -> Change:
    head, _, payload = content.partition(b"\n")
    name, kind = orjson.loads(head)
    return Change(name, kind, payload)
