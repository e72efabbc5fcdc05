"""A dataset repository of the Hugging Face Hub as a place: `hf://datasets/owner/name`.

Every change there is a commit, of which the Hub takes some hundred an hour. So the changes of a run, which is who
writes behind a fence, wait in a journal that its processes share, and are committed together when the run gives a sign
of life (`dataset/lease.py`), and at its end. The content of large files is sent at once: only its hash waits.

A commit is made on top of the one at which the fence was looked at, and refused by the Hub if there is a newer one by
then; so nobody writes who may not any more, whatever was delayed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

from turbo_fetch.errors import OutputError
from turbo_fetch.storage.hub_journal import Change, Journal
from turbo_fetch.storage.hub_repository import Repository, told
from turbo_fetch.storage.interface import Entry, Storage, checked_name
from turbo_fetch.storage.local import remove

COMMIT_EVERY_S: Final = 100.0
SMALL_BYTES: Final = 64 << 10
"""Files up to this size wait with their content."""
CHANGES_AT_ONCE: Final = 10_000
"""In one commit."""


class HubStorage(Storage):
    """A folder of a dataset repository, made, seen by nobody else, when it is first written to."""

    is_local = False
    change_every_s = COMMIT_EVERY_S

    def __init__(self, url: str, work: Path, work_of_whole: Path | None = None) -> None:
        super().__init__(url, work)
        self._repository, self._folder = Repository.at(url)
        self._work_of_whole: Final = work_of_whole or work

    def exists(self, name: str) -> bool:
        """See Storage."""
        path = self._at(name)
        changes = self._waiting()
        if any(_is_within(each, path) and change.kind != "deleted" for each, change in changes.items()):
            return True
        if _is_deleted(path, changes):
            return False
        with told(self.url, reading=True):
            head = self._head_if_any()
            return head is not None and path in self._repository.find([path], head)

    def list(self, folder: str = "") -> Iterator[Entry]:
        """See Storage."""
        place = self._at(folder) if folder else self._folder
        changes = self._waiting()
        found: dict[str, Entry] = {}
        with told(self.url, reading=True):
            head = self._head_if_any()
            if head is not None and not _is_deleted(place, changes):
                for entry in self._repository.entries(place, head):
                    if not _is_deleted(_joined(place, entry.name), changes):
                        found[entry.name] = entry
        for path, change in changes.items():
            if change.kind != "deleted" and _is_within(path, place) and path != place:
                name, _, below = path[len(place) :].lstrip("/").partition("/")
                found[name] = Entry(name, None if below else _size(change))
        yield from found.values()

    def read_bytes(self, name: str) -> bytes:
        """See Storage."""
        change = self._change(name)
        if change is not None and change.kind == "content":
            return change.payload
        with told(f"{self.url}/{name}", missing_is_error=False, reading=True):
            return self._repository.read(self._at(name), self._head_with(name, change))

    def open_file(self, name: str) -> IO[bytes]:
        """See Storage."""
        change = self._change(name)
        with told(f"{self.url}/{name}", missing_is_error=False, reading=True):
            return self._repository.open(self._at(name), self._head_with(name, change))

    def write_bytes(self, name: str, content: bytes) -> None:
        """See Storage."""
        self._change_all([Change(self._at(name), "content", content)])

    def write_while(self, name: str, content: bytes, check: Callable[[], None]) -> None:
        """See Storage: one commit with all that waits behind the lease that is written."""
        path = self._at(name)
        with told(f"{self.url}/{name}"), self._journal_of(name).leaving() as changes:
            self._commit({**changes, path: Change(path, "content", content)}, check)

    def flush(self) -> None:
        """See Storage."""
        with told(self.url), self.journal.leaving() as changes:
            # The fence may have to write the lease, and that waits for this.
            self._commit(changes, self.confirm or (lambda: None))

    def create(self, name: str, content: bytes) -> bool:
        """See Storage.

        What is made is a lease. Its holder takes over what waits of an earlier run of this machine, if that one had the
        last word.
        """
        from huggingface_hub import CommitOperationAdd

        path, journal = self._at(name), self._journal_of(name)
        with told(f"{self.url}/{name}"):
            while True:
                head = self._head()
                if path in self._repository.find([path], head):
                    if self._repository.read(path, head) != content:
                        return False
                    # The answer to an earlier try was lost; others may have committed before it, or since.
                    journal.begin(None, head)
                    return True
                new = self._repository.commit([CommitOperationAdd(path, content)], head)
                if new is not None:
                    journal.begin(head, new)
                    return True

    def publish(self, local_path: Path, name: str) -> None:
        """See Storage."""
        if local_path.is_dir():
            files = [each for each in sorted(local_path.rglob("*")) if each.is_file()]
            self.delete(name)
            self.upload_files({f"{name}/{each.relative_to(local_path).as_posix()}": each for each in files})
        else:
            self.upload_files({name: local_path})
        remove(local_path)

    def upload_files(self, files: Mapping[str, Path]) -> None:
        """Publish local files, which stay, under their names, sent side by side."""
        with told(self.url):
            self._change_all(self._sent({self._at(name): file for name, file in files.items()}))

    def hashes(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return of those of the files that are there their sha256 or, of what Git stores itself, Git's SHA-1."""
        with told(self.url, reading=True):
            found = self._repository.find([self._at(name) for name in names], self._head())
            stored = {name: found.get(self._at(name)) for name in names}
            return {
                name: each.lfs.sha256 if each.lfs else each.blob_id
                for name, each in stored.items()
                if each is not None and hasattr(each, "blob_id")
            }

    def delete(self, name: str) -> None:
        """See Storage."""
        path = self._at(name)
        if self.fence is not None:
            self.journal.discard([each for each in self._waiting() if _is_within(each, path)])
        self._change_all([Change(path, "deleted")])

    def delete_files(self, names: Sequence[str]) -> None:
        """See Storage."""
        self._change_all([Change(self._at(name), "deleted") for name in names])

    def move(self, name: str, target: str, is_left: bool = False) -> None:
        """See Storage: a commit, which costs no bytes."""
        from huggingface_hub import CommitOperationCopy, CommitOperationDelete

        source, goal = self._at(name), self._at(target)
        self.flush()
        with told(f"{self.url}/{target}", missing_is_error=False):
            while True:
                head = self._head()
                self.check_fence()
                files = list(self._files_below(source, head))
                if not files:
                    raise FileNotFoundError(f"{self.url}/{name}")
                copies = [CommitOperationCopy(each, goal + each.removeprefix(source)) for each in files]
                deletions = [CommitOperationDelete(each) for each in files]
                new = self._repository.commit([*copies, *deletions], head)
                if new is not None:
                    self.journal.follow(head, new)
                    return

    def inside(self, folder: str, work: Path) -> HubStorage:
        """See Storage. It has the journal of the whole."""
        return HubStorage(f"{self.url}/{folder}", work, self._work_of_whole)._with_fence_of(self)

    def probe(self, name: str) -> None:
        """See Storage: the Hub is asked whether this user may write, since a file would take commits."""
        with told(self.url):
            self._head()
            self._repository.check_writable()

    def _at(self, name: str) -> str:
        return _joined(self._folder, str(checked_name(name)))

    @property
    def journal(self) -> Journal:
        """What waits for the next commit, of who has the lease here."""
        return Journal(self._work_of_whole, self.holder)

    def _journal_of(self, lease: str) -> Journal:
        """Return the journal of who has a lease, with whose number the name of its file ends."""
        return Journal(self._work_of_whole, lease.rpartition(".")[2])

    def _waiting(self) -> Mapping[str, Change]:
        """Return the changes by path that this process sees: those of its run."""
        return self.journal.changes() if self.fence is not None else {}

    def _change(self, name: str) -> Change | None:
        if self.fence is None:
            return None
        path = self._at(name)
        change = self.journal.find(path)
        if change is None and _is_deleted(path, self._waiting()):
            return Change(path, "deleted")
        return change

    def _head_with(self, name: str, change: Change | None) -> str:
        """Return a commit that has a file as it is now; FileNotFoundError if it is not there."""
        if change is not None and change.kind != "deleted":
            self.flush()
        head = self._head_if_any()
        if head is None or (change is not None and change.kind == "deleted"):
            raise FileNotFoundError(f"{self.url}/{name}")
        return head

    def _head_if_any(self) -> str | None:
        """Return the newest commit of the repository, None if it is not there; OutputError where a run has a lease."""
        head = self._repository.head()
        if head is None and self.fence is not None:
            raise OutputError(
                f"{self.url}: the Hub shows no repository here any more; expected the one that this run began with, "
                "and a token that may read it"
            )
        return head

    def _head(self) -> str:
        """Return the newest commit of the repository, made if it is not there."""
        head = self._repository.head()
        if head is None:
            self._repository.make()
            head = self._repository.head()
        if head is None:
            raise OutputError(f"{self.url}: the Hub does not show a repository that it has just made")
        return head

    def _change_all(self, changes: Sequence[Change]) -> None:
        """Have changes wait, if a run makes them, else commit them."""
        with told(self.url):
            if self.fence is not None:
                self.journal.put(*changes)
                return
            self._commit({change.name: change for change in changes}, lambda: None)

    def _sent(self, files: Mapping[str, Path]) -> Sequence[Change]:
        """Send the content of files, by path, except that of small ones; return the changes that make them."""
        from huggingface_hub import CommitOperationAdd

        large = {path: CommitOperationAdd(path, str(file)) for path, file in files.items() if _is_large(file)}
        if large:
            self._repository.send([*large.values()])
        # Where the Hub stores a file as Git does, its content still is to be sent, with the commit.
        gone = {path: each for path, each in large.items() if each.path_or_fileobj == b""}
        return [
            Change(path, "sent", pickle.dumps(gone[path]))
            if path in gone
            else Change(path, "content", file.read_bytes())
            for path, file in files.items()
        ]

    def _commit(self, changes: Mapping[str, Change], check: Callable[[], None]) -> None:
        """Commit changes in their order while `check` lets it, on top of whatever others have committed."""
        in_order = list(changes.values())
        for start in range(0, len(in_order), CHANGES_AT_ONCE):
            some = in_order[start : start + CHANGES_AT_ONCE]
            # What is replaced later is gone meanwhile: no reader takes an old file for one of the new ones.
            later = [Change(each.name, "deleted") for each in in_order[start + CHANGES_AT_ONCE :]]
            while not self._try_to_commit([*later, *some], check):
                pass

    def _try_to_commit(self, changes: Sequence[Change], check: Callable[[], None]) -> bool:
        """Return False if another commit came first."""
        head = self._head()
        check()
        operations = self._operations(changes, head)
        if not operations:
            return True
        new = self._repository.commit(operations, head)
        if new is None:
            return False
        made = [each.name for each in changes if each.kind != "deleted"]
        missing = set(made) - self._repository.find(made, new).keys()
        if missing:
            raise OutputError(
                f"{self.url}: the Hub left out {sorted(missing)[0]} and {len(missing) - 1} more files of a commit; "
                "expected a repository without a .gitignore that names them"
            )
        self.journal.follow(head, new)
        return True

    def _operations(self, changes: Sequence[Change], head: str) -> Sequence[Any]:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, RepoFolder

        deleted = [each.name for each in changes if each.kind == "deleted"]
        found = self._repository.find(deleted, head) if deleted else {}
        deletions = [
            CommitOperationDelete(path, is_folder=isinstance(each, RepoFolder))
            for path, each in found.items()
        ]
        # What is unpickled was pickled by this user's own processes, in a folder of this user's.
        additions = [
            pickle.loads(each.payload) if each.kind == "sent" else CommitOperationAdd(each.name, each.payload)
            for each in changes
            if each.kind != "deleted"
        ]
        return [*deletions, *additions]

    def _files_below(self, path: str, head: str) -> Iterator[str]:
        """Yield a file, or all files in a folder."""
        from huggingface_hub import RepoFile

        found = self._repository.find([path], head).get(path)
        if isinstance(found, RepoFile):
            yield path
        elif found is not None:
            for entry in self._repository.entries(path, head):
                yield from self._files_below(_joined(path, entry.name), head)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_within(path: str, place: str) -> bool:
    return not place or path == place or path.startswith(f"{place}/")


def _is_deleted(path: str, changes: Mapping[str, Change]) -> bool:
    """Return whether what the repository has there is to be deleted, or replaced."""
    folders = [path[:end] for end, letter in enumerate(path) if letter == "/"]
    return any((change := changes.get(each)) and change.kind == "deleted" for each in (path, *folders))


def _is_large(file: Path) -> bool:
    return file.stat().st_size > SMALL_BYTES


def _size(change: Change) -> int:
    if change.kind == "sent":
        return int(pickle.loads(change.payload).upload_info.size)
    return len(change.payload)
