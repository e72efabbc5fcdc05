"""Places: a local folder, or a folder at any fsspec URL, into which whole files are published.

Names are relative to the place, with `/` between folders. A reader of the place never sees half a file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from turbo_fetch.errors import OutputError, SpecError
from turbo_fetch.storage.disk import replace_with, sync, sync_one
from turbo_fetch.storage.failures import explained
from turbo_fetch.storage.filesystems import is_local, open_filesystem, path_of, protocols


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder directly in a place; `bytes` is None for a folder."""

    name: str
    bytes: int | None


class Storage(ABC):
    """A place to publish into. `url` names it; `path` is it, if local; `work` is the local folder for
    what is not finished, which whoever opens it chooses.

    All methods block, and raise OutputError, naming the place, where it fails them; those that read, InputError where
    it is a file.
    """

    url: str
    path: Path | None = None
    work: Path
    is_local: bool

    @staticmethod
    def open(url: str) -> Storage:
        """Return the place at `url`, without touching it and without a work folder.

        Raises SpecError for an unknown protocol, MissingExtra for one whose package is not installed.
        """
        if (local := path_of(url)) is not None:
            return LocalStorage(local)
        filesystem, path = open_filesystem(url, "Output to", SpecError)
        if is_local(filesystem):
            return LocalStorage(Path(path))
        return RemoteStorage(url, filesystem, path)

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether the file or folder is there."""

    @abstractmethod
    def list(self, folder: str = "") -> Iterator[Entry]:
        """Yield what is directly in the place, or in a folder of it, in any order; nothing if it does not exist."""

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """Return a whole file; FileNotFoundError if it is not there."""

    @abstractmethod
    def open_file(self, name: str) -> IO[bytes]:
        """Open a file for reading, seekable; FileNotFoundError if it is not there."""

    @abstractmethod
    def write_bytes(self, name: str, content: bytes) -> None:
        """Publish a file with this content, replacing one of that name."""

    @abstractmethod
    def publish(self, local_path: Path, name: str) -> None:
        """Publish a finished local file or folder, which is gone afterwards, replacing one of that name.

        A local place: synced to disk, then renamed into it. An object store: one put per file.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file or a folder with all that is in it, if it is there."""

    @abstractmethod
    def move(self, name: str, target: str) -> None:
        """Move a published file or folder within the place, replacing one of the name `target`.

        A local place renames; an object store copies on its side. FileNotFoundError if it is not there.
        """

    @abstractmethod
    def inside(self, folder: str, work: Path) -> Storage:
        """Return the folder `folder` of the place as a place of its own, with another work folder."""

    @abstractmethod
    def probe(self, name: str) -> None:
        """Prove with a file of this name that files can be written, read back and found: raises OutputError if not."""

    def make_work(self) -> Path:
        """Return the work folder, made if absent."""
        with explained(str(self.work)):
            self.work.mkdir(parents=True, exist_ok=True)
        return self.work


class LocalStorage(Storage):
    """A folder of this machine; made, with its parents, when first written to."""

    is_local = True

    def __init__(self, path: Path) -> None:
        self.root = self.path = path.absolute()
        self.url = str(path.absolute())

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
        with explained(str(target), len(content)):
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_with(target, content)

    def publish(self, local_path: Path, name: str) -> None:
        """See Storage."""
        target = self._at(name)
        with explained(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            sync(local_path)
            try:
                _put_in_place(local_path, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _move_across(local_path, target)
            sync_one(target.parent)

    def delete(self, name: str) -> None:
        """See Storage."""
        target = self._at(name)
        with explained(str(target)):
            _remove(target)

    def move(self, name: str, target: str) -> None:
        """See Storage."""
        source, goal = self._at(name), self._at(target)
        with explained(str(goal), missing_is_error=False):
            goal.parent.mkdir(parents=True, exist_ok=True)
            _put_in_place(source, goal)
            sync_one(goal.parent)

    def inside(self, folder: str, work: Path) -> LocalStorage:
        """See Storage."""
        place = LocalStorage(self._at(folder))
        place.work = work
        return place

    def probe(self, name: str) -> None:
        """See Storage."""
        folder = self._at(name).parent
        is_new = not folder.exists()
        with explained(self.url):
            self.write_bytes(name, b"probe")
            self.delete(name)
            if is_new:
                folder.rmdir()

    def _at(self, name: str) -> Path:
        return self.root / _checked(name)


class RemoteStorage(Storage):
    """A folder at an fsspec URL: an object store, or anything else that fsspec reaches."""

    is_local = False

    def __init__(self, url: str, filesystem: Any, path: str) -> None:
        self.url = url.rstrip("/")
        self._filesystem = filesystem
        self._path = path.rstrip("/")

    def exists(self, name: str) -> bool:
        """See Storage."""
        with explained(self.url, reading=True):
            self._filesystem.invalidate_cache()
            return bool(self._filesystem.exists(self._at(name)))

    def list(self, folder: str = "") -> Iterator[Entry]:
        """See Storage."""
        place = self._at(folder) if folder else self._path
        with explained(self.url, reading=True):
            self._filesystem.invalidate_cache()
            try:
                found = self._filesystem.ls(place, detail=True)
            except FileNotFoundError:
                return
        for entry in found:
            name = PurePosixPath(entry["name"]).name
            if entry["name"].rstrip("/") != place:
                yield Entry(name, None if entry["type"] == "directory" else entry["size"])

    def read_bytes(self, name: str) -> bytes:
        """See Storage."""
        with explained(f"{self.url}/{name}", missing_is_error=False, reading=True):
            return bytes(self._filesystem.cat_file(self._at(name)))

    def open_file(self, name: str) -> IO[bytes]:
        """See Storage."""
        with explained(f"{self.url}/{name}", missing_is_error=False, reading=True):
            return cast(IO[bytes], self._filesystem.open(self._at(name), "rb"))

    def write_bytes(self, name: str, content: bytes) -> None:
        """See Storage."""
        with explained(f"{self.url}/{name}", len(content)):
            self._make_parent(name)
            self._filesystem.pipe_file(self._at(name), content)

    def publish(self, local_path: Path, name: str) -> None:
        """See Storage."""
        with explained(f"{self.url}/{name}"):
            if local_path.is_dir():
                self.delete(name)
                files = [path for path in sorted(local_path.rglob("*")) if path.is_file()]
                for path in files:
                    self._put(path, f"{name}/{path.relative_to(local_path).as_posix()}")
            else:
                self._put(local_path, name)
            _remove(local_path)

    def delete(self, name: str) -> None:
        """See Storage."""
        with explained(f"{self.url}/{name}"):
            self._filesystem.invalidate_cache()
            if self._filesystem.exists(self._at(name)):
                self._filesystem.rm(self._at(name), recursive=True)

    def move(self, name: str, target: str) -> None:
        """See Storage."""
        with explained(f"{self.url}/{target}", missing_is_error=False):
            self._filesystem.invalidate_cache()
            is_folder = self._filesystem.isdir(self._at(name))
            if is_folder:
                self.delete(target)
            self._make_parent(target)
            self._filesystem.mv(self._at(name), self._at(target), recursive=is_folder)

    def inside(self, folder: str, work: Path) -> RemoteStorage:
        """See Storage."""
        place = RemoteStorage(f"{self.url}/{folder}", self._filesystem, self._at(folder))
        place.work = work
        return place

    def probe(self, name: str) -> None:
        """See Storage."""
        folder, _, last = name.rpartition("/")
        self.write_bytes(name, b"probe")
        if self.read_bytes(name) != b"probe":
            raise OutputError(f"{self.url} does not return what was written to it")
        if not any(entry.name == last for entry in self.list(folder)):
            raise OutputError(f"{self.url} does not list what was written to it")
        self.delete(name)

    def _at(self, name: str) -> str:
        return f"{self._path}/{_checked(name)}"

    def _put(self, local_path: Path, name: str) -> None:
        self._make_parent(name)
        self._filesystem.put_file(str(local_path), self._at(name))

    def _make_parent(self, name: str) -> None:
        # Object stores have no folders, and making one may try to make a bucket; the others need them.
        if not protocols(self._filesystem) & {"s3", "gs", "gcs", "abfs", "az", "oss"}:
            self._filesystem.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)


def cache_folder() -> Path:
    """Return this user's folder for caches of turbo-fetch, by the platform's custom; it may not exist yet."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "turbo-fetch"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "turbo-fetch"


def url_digest(url: str) -> str:
    """Return a name for what belongs to a place, to be used in folders that several places share."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not a name inside of a place")
    return path


def _put_in_place(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir():
        aside = source.with_name(f"{source.name}.old")
        _remove(aside)
        target.rename(aside)
        source.rename(target)
        _remove(aside)
    else:
        source.replace(target)


def _move_across(source: Path, target: Path) -> None:
    """Move between file systems: a copy beside the target, synced, then renamed."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if source.is_dir():
            shutil.copytree(source, temporary)
        else:
            shutil.copyfile(source, temporary)
        sync(temporary)
        _put_in_place(temporary, target)
    except BaseException:
        _remove(temporary)
        raise
    _remove(source)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
