"""A folder at an fsspec URL.

Behind a fence, which is looked at before every change, an object store refuses the one change that a writer may have
begun before somebody else took its place: a file is made only if there is none, and replaced only if it is still the
one that was there when the fence was looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, cast

from turbo_fetch.errors import OutputError
from turbo_fetch.storage.failures import explained
from turbo_fetch.storage.filesystems import protocols
from turbo_fetch.storage.interface import Entry, Listing, Storage, checked_name
from turbo_fetch.storage.local import remove

_OBJECT_STORES: Final = {"s3", "gs", "gcs", "abfs", "az", "oss"}
_CONDITIONAL: Final = {"s3", "gs", "gcs", "abfs", "az"}
"""Those whose clients take `mode="create"`."""
_REFUSALS: Final = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
ONE_PUT_BYTES: Final = 50 * 2**20
"""What s3fs sends in one request, whatever its version; a put of several parts takes no condition but "create"."""


class RemoteStorage(Storage):
    """A folder at an fsspec URL: an object store, or anything else that fsspec reaches."""

    is_local = False

    def __init__(self, url: str, work: Path, filesystem: Any, path: str) -> None:
        super().__init__(url, work)
        self._filesystem = filesystem
        self._path = path.rstrip("/")
        self._protocols = protocols(filesystem)

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

    def enter(self, listing: Listing, folder: str = "") -> None:
        """See Storage."""
        if "s3" not in self._protocols or not self._enter_pages(listing, folder):
            super().enter(listing, folder)

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
            self._put(
                name, len(content), lambda **how: self._filesystem.pipe_file(self._at(name), content, **how)
            )

    def create(self, name: str, content: bytes) -> bool:
        """See Storage. Where the store, or fsspec's client of it, has no such request, it is looked for before."""
        with explained(f"{self.url}/{name}", len(content)):
            self._make_parent(name)
            if not self._protocols & _CONDITIONAL:
                if self.exists(name):
                    return False
                self._filesystem.pipe_file(self._at(name), content)
                return True
            try:
                self._filesystem.pipe_file(self._at(name), content, mode="create")
            except OSError as error:
                if not _is_refused(error):
                    raise
                # The answer to an earlier try of the client's own may have been lost.
                return self.read_bytes(name) == content
            return True

    def publish(self, local_path: Path, name: str) -> None:
        """See Storage."""
        with explained(f"{self.url}/{name}"):
            if local_path.is_dir():
                self.delete(name)
                files = [path for path in sorted(local_path.rglob("*")) if path.is_file()]
                for path in files:
                    self._put_file(path, f"{name}/{path.relative_to(local_path).as_posix()}")
            else:
                self._put_file(local_path, name)
            remove(local_path)

    def delete(self, name: str) -> None:
        """See Storage."""
        self.check_fence()
        with explained(f"{self.url}/{name}"):
            self._filesystem.invalidate_cache()
            if self._filesystem.exists(self._at(name)):
                self._filesystem.rm(self._at(name), recursive=True)

    def delete_files(self, names: Sequence[str]) -> None:
        """See Storage."""
        self.check_fence()
        paths = [self._at(name) for name in names]
        with explained(self.url):
            try:
                self._filesystem.rm(paths)
            except FileNotFoundError:
                # Said of an empty list, too; and who deletes one after the other has stopped there.
                for path in paths:
                    with suppress(FileNotFoundError):
                        self._filesystem.rm_file(path)

    def move(self, name: str, target: str, is_left: bool = False) -> None:
        """See Storage."""
        self.check_fence()
        with explained(f"{self.url}/{target}", missing_is_error=False):
            if is_left and "s3" in self._protocols and self._copy(name, target):
                return
            self._filesystem.invalidate_cache()
            is_folder = self._filesystem.isdir(self._at(name))
            if is_folder:
                self.delete(target)
            self._make_parent(target)
            self._filesystem.mv(self._at(name), self._at(target), recursive=is_folder)

    def inside(self, folder: str, work: Path) -> RemoteStorage:
        """See Storage."""
        place = RemoteStorage(f"{self.url}/{folder}", work, self._filesystem, self._at(folder))
        return place._with_fence_of(self)

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

    def _enter_pages(self, listing: Listing, folder: str) -> bool:
        from turbo_fetch.storage.s3_requests import requests_of

        bucket, _, key = (self._at(folder) if folder else self._path).partition("/")
        prefix = folder and f"{folder}/"
        with explained(self.url, reading=True):
            return requests_of(self._filesystem).list(
                bucket, key and f"{key}/", lambda entries: listing.add(prefix, entries)
            )

    def _copy(self, name: str, target: str) -> bool:
        """Copy a file by one request; return False where there is no file, or one too large for that.

        The client's own copy asks for the size before, and its move for what there may be below the name.
        """
        bucket, _, key = self._at(name).partition("/")
        goal = self._at(target).partition("/")[2]

        from turbo_fetch.storage.s3_requests import requests_of

        def copy(mode: str = "", **condition: str) -> None:
            if mode:
                condition["IfNoneMatch"] = "*"
            if requests_of(self._filesystem).copy(bucket, key, goal, condition):
                return
            source = {"Bucket": bucket, "Key": key}
            self._filesystem.call_s3("copy_object", Bucket=bucket, Key=goal, CopySource=source, **condition)

        try:
            self._put(target, 0, copy)
        except OSError as error:
            if _is_refused(error):
                raise
            return False
        self._filesystem.invalidate_cache()
        return True

    def _put_file(self, local_path: Path, name: str) -> None:
        self._make_parent(name)
        size, path = local_path.stat().st_size, str(local_path)
        self._put(name, size, lambda **how: self._filesystem.put_file(path, self._at(name), **how))

    def _put(self, name: str, size: int, put: Callable[..., object]) -> None:
        """Make a file, or replace it as it is while the fence holds."""
        self.check_fence()
        if self.fence is None or not self._protocols & _CONDITIONAL:
            put()
            return
        condition: Mapping[str, str] = {"mode": "create"}
        while True:
            try:
                put(**condition)
                return
            except OSError as error:
                if not _is_refused(error):
                    raise
            condition = self._condition(name, size)
            self.check_fence()

    def _condition(self, name: str, size: int) -> Mapping[str, str]:
        """Return the condition that a file is as it is now, or not there; empty where it cannot be had."""
        self._filesystem.invalidate_cache()
        try:
            version = self._filesystem.info(self._at(name)).get("ETag")
        except FileNotFoundError:
            return {"mode": "create"}
        return {"IfMatch": version} if "s3" in self._protocols and version and size < ONE_PUT_BYTES else {}

    def _make_parent(self, name: str) -> None:
        # Object stores have no folders, and making one may try to make a bucket; the others need them.
        if not self._protocols & _OBJECT_STORES:
            self._filesystem.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)


def _is_refused(error: OSError) -> bool:
    """Return whether a store refused a request since its condition did not hold."""
    response = getattr(error.__cause__, "response", None) or {}
    return isinstance(error, FileExistsError) or response.get("Error", {}).get("Code") in _REFUSALS
