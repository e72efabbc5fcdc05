"""A folder of this machine."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from turbo_fetch.storage.disk import create, make_folder, replace_with, sync, sync_one, unfinished
from turbo_fetch.storage.failures import explained
from turbo_fetch.storage.interface import Entry, Listing, Storage, checked_name


class LocalStorage(Storage):
    """A folder of this machine; made, with its parents, when first written to. `work` is itself if not given."""

    is_local = True

    def __init__(self, path: Path, work: Path | None = None) -> None:
        self.root = path.absolute()
        super().__init__(str(self.root), work or self.root, self.root)

    def exists(self, name: str) -> bool:
        """See Storage."""
        with explained(str(self._at(name)), reading=True):
            return self._at(name).exists()

    def list(self, folder: str = "") -> Iterator[Entry]:
        """See Storage."""
        place = self._at(folder) if folder else self.root
        with explained(str(place), reading=True):
            try:
                entries = os.scandir(place)
            except FileNotFoundError:
                return
            with entries:
                for entry in entries:
                    yield Entry(entry.name, None if entry.is_dir() else entry.stat().st_size)

    def enter(self, listing: Listing, folder: str = "") -> None:
        """See Storage. Natively: to look at each of millions of files by Python takes three times as long."""
        place = self._at(folder) if folder else self.root
        with explained(str(place), reading=True):
            listing.add_folder(place, folder and f"{folder}/")

    def read_bytes(self, name: str) -> bytes:
        """See Storage."""
        with explained(str(self._at(name)), missing_is_error=False, reading=True):
            return self._at(name).read_bytes()

    def open_file(self, name: str) -> IO[bytes]:
        """See Storage."""
        with explained(str(self._at(name)), missing_is_error=False, reading=True):
            return self._at(name).open("rb")

    def write_bytes(self, name: str, content: bytes) -> None:
        """See Storage."""
        target = self._at(name)
        self.check_fence()
        with explained(str(target), len(content)):
            make_folder(target.parent)
            replace_with(target, content)

    def create(self, name: str, content: bytes) -> bool:
        """See Storage."""
        target = self._at(name)
        with explained(str(target), len(content)):
            make_folder(target.parent)
            return create(target, content)

    def publish(self, local_path: Path, name: str) -> None:
        """See Storage."""
        target = self._at(name)
        with explained(str(target)):
            make_folder(target.parent)
            sync(local_path)
            self.check_fence()
            try:
                _put_in_place(local_path, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self._move_across(local_path, target)
            sync_one(target.parent)

    def delete(self, name: str) -> None:
        """See Storage."""
        self.delete_files([name])

    def delete_files(self, names: Sequence[str]) -> None:
        """See Storage."""
        self.check_fence()
        folders = set()
        for target in map(self._at, names):
            with explained(str(target)):
                if remove(target):
                    folders.add(target.parent)
        for folder in folders:
            with explained(str(folder)):
                sync_one(folder)

    def move(self, name: str, target: str, is_left: bool = False) -> None:
        """See Storage."""
        source, goal = self._at(name), self._at(target)
        self.check_fence()
        with explained(str(goal), missing_is_error=False):
            make_folder(goal.parent)
            _put_in_place(source, goal)
            sync_one(goal.parent)

    def inside(self, folder: str, work: Path) -> LocalStorage:
        """See Storage."""
        return LocalStorage(self._at(folder), work)._with_fence_of(self)

    def probe(self, name: str) -> None:
        """See Storage."""
        target = self._at(name)
        new = [folder for folder in target.parents if not folder.exists()]
        with explained(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            # Not brought to disk, which can take as long as all else before the first request.
            try:
                target.write_bytes(b"probe")
            finally:
                target.unlink(missing_ok=True)
            # Somebody else may have put something there.
            with suppress(OSError):
                for folder in new:
                    folder.rmdir()

    def _at(self, name: str) -> Path:
        return self.root / checked_name(name)

    def _move_across(self, source: Path, target: Path) -> None:
        """Move between file systems: a copy beside the target, synced, then renamed."""
        temporary = unfinished(target, self.holder)
        try:
            remove(temporary)
            if source.is_dir():
                shutil.copytree(source, temporary)
            else:
                shutil.copyfile(source, temporary)
            sync(temporary)
            # To copy takes as long as the file is large.
            self.check_fence()
            _put_in_place(temporary, target)
        except BaseException:
            remove(temporary)
            raise
        remove(source)


def _put_in_place(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir():
        aside = source.with_name(f"{source.name}.old")
        remove(aside)
        target.rename(aside)
        source.rename(target)
        remove(aside)
    else:
        source.replace(target)


def remove(path: Path) -> bool:
    """Delete a file or a folder with all that is in it; return whether it was there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return True
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
