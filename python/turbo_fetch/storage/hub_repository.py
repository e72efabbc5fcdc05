"""A dataset repository of the Hugging Face Hub, as its interface shows it: a branch, its files, its commits."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import IO, Any, Final, cast
from urllib.parse import quote

from turbo_fetch.errors import PROTOCOL_EXTRAS, MissingExtra, OutputError, SpecError
from turbo_fetch.storage.failures import explained
from turbo_fetch.storage.interface import Entry

_ADDRESS: Final = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?")
_PATIENCE_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Waits before a commit is tried again that the network, or the Hub, failed."""
_LIMITED_S: Final = 60.0
"""Longest wait at once where the Hub takes no more commits for now."""
_LIMITED_TIMES: Final = 10
"""How often that is waited for; what waits for a commit is kept, and is committed the next time."""
_NAMES_AT_ONCE: Final = 500
_TOO_MANY: Final = 429
_BACK: Final = 412
"""What the Hub answers to a commit whose parent is not the newest any more."""


@dataclass(frozen=True)
class Repository:
    """A branch of a dataset repository. All methods block, and raise what huggingface_hub does."""

    name: str
    """`owner/name`."""
    branch: str = "main"

    @classmethod
    def at(cls, url: str) -> tuple[Repository, str]:
        """Return the repository of an address, and the folder in it, which may be empty; SpecError if it is none.

        Raises MissingExtra if huggingface_hub is not installed.
        """
        match = _ADDRESS.fullmatch(url.rstrip("/"))
        if match is None:
            raise SpecError(f"{url}: expected hf://datasets/owner/name, maybe followed by @branch or /folder")
        if find_spec("huggingface_hub") is None:
            raise MissingExtra(*PROTOCOL_EXTRAS["hf"], purpose=url)
        return cls(match[1], match[2] or "main"), (match[3] or "").strip("/")

    @cached_property
    def _api(self) -> Any:
        import huggingface_hub

        # Documented, though not declared as exported.
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

        disable_progress_bars()
        return huggingface_hub.HfApi(library_name="turbo-fetch")

    @property
    def _whole(self) -> dict[str, str]:
        return {"repo_id": self.name, "repo_type": "dataset"}

    def __getstate__(self) -> dict[str, Any]:
        """Leave connections here."""
        return {"name": self.name, "branch": self.branch}

    def head(self) -> str | None:
        """Return the newest commit of the branch, None if there is none, or none that this user may see."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            return str(self._api.repo_info(**self._whole, revision=self.branch, expand=["sha"]).sha)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None

    def make(self) -> None:
        """Make the repository, which nobody else may see, and the branch, unless they are there."""
        self._api.create_repo(**self._whole, private=True, exist_ok=True)
        if self.branch != "main":
            self._api.create_branch(**self._whole, branch=self.branch, exist_ok=True)

    def check_writable(self) -> None:
        """Raise an error of HTTP if this user may not write there."""
        self._api.auth_check(**self._whole, write=True)

    def entries(self, folder: str, head: str) -> Iterator[Entry]:
        """Yield what is directly in a folder at a commit; nothing if it is not there."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import EntryNotFoundError

        try:
            for each in self._api.list_repo_tree(**self._whole, path_in_repo=folder or None, revision=head):
                size = each.size if isinstance(each, RepoFile) else None
                yield Entry(each.path.rpartition("/")[2], size)
        except EntryNotFoundError:
            return

    def find(self, paths: Sequence[str], head: str) -> dict[str, Any]:
        """Return those of files and folders that are there at a commit, as huggingface_hub describes them."""
        found: list[Any] = []
        for start in range(0, len(paths), _NAMES_AT_ONCE):
            some = list(paths[start : start + _NAMES_AT_ONCE])
            found += self._api.get_paths_info(**self._whole, paths=some, revision=head)
        return {each.path: each for each in found}

    def open(self, path: str, head: str) -> IO[bytes]:
        """Open a file at a commit for reading; FileNotFoundError if it is not there."""
        return cast(IO[bytes], self._files.open(self._at(path, head), "rb"))

    def read(self, path: str, head: str) -> bytes:
        """Return a whole file at a commit; FileNotFoundError if it is not there."""
        return bytes(self._files.cat_file(self._at(path, head)))

    def send(self, additions: Sequence[Any]) -> None:
        """Send the content of those additions to a commit that the Hub stores apart; it then is not here any more."""
        self._api.preupload_lfs_files(
            **self._whole, additions=additions, revision=self.branch, free_memory=True
        )

    def commit(self, operations: Iterable[Any], parent: str) -> str | None:
        """Commit on top of `parent`, and return the new commit; None if that is not the newest any more.

        What may pass, a failing network or too many commits, is waited for.
        """
        operations = list(operations)
        waits_s, limited = iter(_PATIENCE_S), 0
        while True:
            try:
                return str(
                    self._api.create_commit(
                        **self._whole,
                        operations=operations,
                        commit_message=f"turbo-fetch: {len(operations):,} changes",
                        revision=self.branch,
                        parent_commit=parent,
                    ).oid
                )
            except Exception as error:
                if status_of(error) == _BACK:
                    return None
                limited += status_of(error) == _TOO_MANY
                wait_s = _wait_s(error, waits_s)
                if wait_s is None or limited > _LIMITED_TIMES:
                    raise
            time.sleep(wait_s)

    @cached_property
    def _files(self) -> Any:
        from huggingface_hub import HfFileSystem

        # What it keeps of listings stays right: it is asked for commits, which do not change.
        return HfFileSystem(endpoint=self._api.endpoint, skip_instance_cache=True)

    def _at(self, path: str, head: str) -> str:
        return f"datasets/{self.name}@{quote(head, safe='')}/{path}"


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error tells of, None if it is another one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _wait_s(error: Exception, waits_s: Iterator[float]) -> float | None:
    """Return how long to wait before a request is made again, None if that is of no use."""
    status = status_of(error)
    if status == _TOO_MANY:
        after = cast(Any, error).response.headers.get("Retry-After", "")
        return min(float(after), _LIMITED_S) if after.isdecimal() else _LIMITED_S
    is_of_network = status is None and type(error).__module__.partition(".")[0] in {"httpx", "httpx2"}
    return next(waits_s, None) if is_of_network or (status or 0) >= 500 else None


@contextmanager
def told(place: str, missing_is_error: bool = True, reading: bool = False) -> Iterator[None]:
    """Turn what goes wrong at the Hub into an OutputError that says so, as `explained` does."""
    with explained(place, 0, missing_is_error, reading):
        try:
            yield
        except Exception as error:
            if status_of(error) in {401, 403}:
                what = " ".join(str(error).split())
                raise OutputError(
                    f"{place}: the Hub refuses access ({what}); expected a token that may "
                    f"{'read' if reading else 'write'} there: log in with `hf auth login`, or set HF_TOKEN"
                ) from error
            raise
