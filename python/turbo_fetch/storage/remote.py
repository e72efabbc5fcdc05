"""A folder at an fsspec URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from turbo_fetch.errors import OutputError
from turbo_fetch.storage.failures import explained
from turbo_fetch.storage.filesystems import protocols
from turbo_fetch.storage.interface import Entry, Storage, checked_name
from turbo_fetch.storage.local import remove


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
            remove(local_path)

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
        return f"{self._path}/{checked_name(name)}"

    def _put(self, local_path: Path, name: str) -> None:
        self._make_parent(name)
        self._filesystem.put_file(str(local_path), self._at(name))

    def _make_parent(self, name: str) -> None:
        # Object stores have no folders, and making one may try to make a bucket; the others need them.
        if not protocols(self._filesystem) & {"s3", "gs", "gcs", "abfs", "az", "oss"}:
            self._filesystem.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
