"""What every place can do, and how what belongs to a place is named."""

from __future__ import annotations

import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NamedTuple, Self

from turbo_fetch._native import Listing as Listing
from turbo_fetch.storage.disk import make_folder, unfinished
from turbo_fetch.storage.failures import explained

ENTERED_AT_ONCE: Final = 1000


class Entry(NamedTuple):
    """A file or folder directly in a place; `bytes` is None for a folder. There may be millions."""

    name: str
    bytes: int | None


class Storage(ABC):
    """A place to publish into. `url` names it; `path` is it, if local; `work` is the local folder for
    what is not finished, which whoever opens it chooses, and in which those who come later go on.

    All methods block, and raise OutputError, naming the place, where it fails them; those that read, InputError where
    it is a file.
    """

    is_local: bool
    change_every_s: float = 0.0
    """How far apart changes are brought to a place that does not take many; they wait until then, or for `flush`."""
    fence: Callable[[], None] | None = None
    """Called before anything is changed; raises where the one who writes may not any more. What an object store can
    refuse by itself, a file that another one wrote meanwhile, is then left to it."""
    confirm: Callable[[], None] | None = None
    """Raises what the fence raises, by a look at the place alone: enough where a change is let through only on top of
    what was looked at. The fence may have to write there first."""
    holder: str = ""
    """Who writes behind the fence, in names of files that are not finished: one that has lost the place must not come
    upon those of the next."""

    def __init__(self, url: str, work: Path, path: Path | None = None) -> None:
        self.url, self.work, self.path = url, work, path

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether the file or folder is there."""

    @abstractmethod
    def list(self, folder: str = "") -> Iterator[Entry]:
        """Yield what is directly in the place, or in a folder of it, in any order; nothing if it does not exist."""

    def enter(self, listing: Listing, folder: str = "") -> None:
        """Note in a listing what `list` yields, with the folder before each name."""
        prefix = folder and f"{folder}/"
        entries = ((entry.name.encode(errors="surrogateescape"), entry.bytes) for entry in self.list(folder))
        while some := list(islice(entries, ENTERED_AT_ONCE)):
            listing.add(prefix, some)

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """Return a whole file; FileNotFoundError if it is not there."""

    @abstractmethod
    def open_file(self, name: str) -> IO[bytes]:
        """Open a file for reading, seekable; FileNotFoundError if it is not there."""

    @abstractmethod
    def write_bytes(self, name: str, content: bytes) -> None:
        """Publish a file with this content, replacing one of that name."""

    def write_while(self, name: str, content: bytes, check: Callable[[], None]) -> None:
        """Publish a file, and whatever waits, if `check` does not raise; a place that cannot tie them together leaves
        it to the caller to check afterwards."""
        self.write_bytes(name, content)

    def flush(self) -> None:  # noqa: B027 - where nothing waits there is nothing to do
        """Bring what waits to the place."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Publish a file with this content if there is none of that name, and return whether there was none.

        Of several that do so at once, on whatever machines, one succeeds.
        """

    @abstractmethod
    def publish(self, local_path: Path, name: str) -> None:
        """Publish a finished local file or folder, which is gone afterwards, replacing one of that name.

        A local place: synced to disk, then renamed into it. An object store: one put per file.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file or a folder with all that is in it, if it is there."""

    @abstractmethod
    def move(self, name: str, target: str, is_left: bool = False) -> None:
        """Move a published file or folder within the place, replacing one of the name `target`.

        A local place renames; an object store copies on its side, where with `is_left` a file stays, too, under its
        old name. FileNotFoundError if it is not there.
        """

    @abstractmethod
    def delete_files(self, names: Sequence[str]) -> None:
        """Delete files, those of them that are there."""

    @abstractmethod
    def inside(self, folder: str, work: Path) -> Storage:
        """Return the folder `folder` of the place as a place of its own, with another work folder."""

    @abstractmethod
    def probe(self, name: str) -> None:
        """Prove with a file of this name that files can be written, read back and found: raises OutputError if not."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the fence here, and who is behind it: what it looks at is this process's."""
        return {
            name: value for name, value in self.__dict__.items() if name not in {"fence", "confirm", "holder"}
        }

    def check_fence(self) -> None:
        """Raise what the fence raises, if there is one."""
        if self.fence is not None:
            self.fence()

    def make_work(self) -> Path:
        """Return the work folder, made if absent."""
        with explained(str(self.work)):
            make_folder(self.work)
        return self.work

    @property
    def staging(self) -> Path:
        """The local folder for what is begun anew each time: the work folder or, behind a fence, its holder's own."""
        return unfinished(self.work / "staged", self.holder) if self.holder else self.work

    def make_staging(self) -> Path:
        """Return that folder, made if absent."""
        with explained(str(self.staging)):
            make_folder(self.staging)
        return self.staging

    def _with_fence_of(self, other: Storage) -> Self:
        self.fence, self.confirm, self.holder = other.fence, other.confirm, other.holder
        return self


def cache_folder() -> Path:
    """Return this user's folder for caches of turbo-fetch, by the platform's custom; it may not exist yet."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "turbo-fetch"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "turbo-fetch"


def url_digest(url: str) -> str:
    """Return a name for what belongs to a place, to be used in folders that several places share."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def checked_name(name: str) -> PurePosixPath:
    """Return a name as a path inside of a place; ValueError if it is not one."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} is not a name inside of a place")
    return path
