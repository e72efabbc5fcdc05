"""A finished dataset onto the Hugging Face Hub, where it is the same dataset: resumed, retried, verified as any other.

Each shard is checked before it goes, and what the Hub has already, by its hash, does not go again; so the same call
goes on where an earlier one stopped.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from turbo_fetch.dataset import names
from turbo_fetch.dataset.card import is_ours, write_card
from turbo_fetch.dataset.description import Job, read_job
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.manifest import read_manifest
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.reader import StoredDataset, StoredShard
from turbo_fetch.errors import DatasetError, InputError, Interrupted, OutputExists, SpecError
from turbo_fetch.maintenance.score import CHANGING
from turbo_fetch.maintenance.shard_check import check_shard
from turbo_fetch.progress.summary import counted, human_bytes, human_time
from turbo_fetch.runners.step import Progress
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage
from turbo_fetch.storage.hub import HubStorage

SHARDS_AT_ONCE: Final = 8
"""Their files are sent side by side."""
READ_BYTES: Final = 1 << 20
_BEFORE: Final = (names.JOB, names.SPEC)
_AFTER: Final = (names.METRICS, names.MANIFEST)


@dataclass(slots=True)
class Pushed:
    """What a push came to."""

    path: str
    shards: int = 0
    rows: int = 0
    files: int = 0
    """That were sent."""
    bytes: int = 0
    files_there: int = 0
    """That the Hub had already."""
    wall_s: float = 0.0

    def text(self) -> str:
        """Return it as lines for a person."""
        return (
            f"pushed    {counted(self.shards, 'shard')}, {counted(self.rows, 'row')} "
            f"to {self.path}, in {human_time(self.wall_s)}\n"
            f"sent      {counted(self.files, 'file')}, {human_bytes(self.bytes)}; "
            f"{self.files_there:,} were there already"
        )


def push(source_url: str, destination: str, progress: Progress, stop: StopRequest) -> Pushed:
    """Bring a dataset to a repository of the Hub, made if it is not there; return the account.

    Raises SpecError for another place, InputError if there is no dataset of turbo-fetch, DatasetError if it is damaged,
    OutputExists if the repository holds another one, MissingExtra, OutputError, or Interrupted.
    """
    started_s = time.monotonic()
    source = StoredDataset.open(open_place(source_url))
    job = read_job(source.storage)
    if job is None:
        raise InputError(
            f"{source.storage.url}: made by img2dataset; expected a dataset of turbo-fetch, which says what its files "
            "are. `hf upload-large-folder` takes any folder"
        )
    target = open_place(destination)
    if not isinstance(target, HubStorage):
        raise SpecError(
            f"{destination}: expected hf://datasets/owner/name; to other places a dataset is copied as any folder is"
        )
    target.probe(names.PROBE)
    result = Pushed(target.url)
    with locked(target, stop=stop):
        _refuse_another(job, source, target)
        _bring(_BEFORE, source.storage, target, result)
        shards = iter(source.shards)
        while some := list(islice(shards, SHARDS_AT_ONCE)):
            if stop:
                raise Interrupted("interrupted; what was sent is kept. Run the same command again to resume")
            _bring_shards(some, source, target, result)
            progress.advance(sum(shard.rows for shard in some))
            progress.refresh()
        refreshes = [f"{names.REFRESH}/{entry.name}" for entry in source.storage.list(names.REFRESH)]
        _bring([*refreshes, *_AFTER], source.storage, target, result)
        # A card of ours is made anew, since it says how the dataset is loaded from there.
        texts = [names.REPORT] if is_ours(source.storage) else [names.REPORT, names.README]
        _bring(texts, source.storage, target, result)
        write_card(target)
    result.wall_s = time.monotonic() - started_s
    return result


def _refuse_another(job: Job, source: StoredDataset, target: HubStorage) -> None:
    """Raise OutputExists if the repository has another dataset, or shards that this one lacks."""
    found = read_job(target)
    if found is None:
        if any(names.shard_of_metadata(entry.name) for entry in target.list()):
            raise OutputExists(f"{target.url} holds shards of something else; choose another repository")
        return
    if _made_as(found) != _made_as(job) or _lists(job)[: len(_lists(found))] != _lists(found):
        raise OutputExists(f"{target.url} holds another dataset; choose another repository")
    has = {shard.number for shard in source.shards}
    more = sorted(record["name"] for record in read_manifest(target) if record["shard"] not in has)
    if more:
        raise OutputExists(
            f"{target.url} has {len(more):,} shards, {more[0]} for one, that {source.storage.url} lacks; expected the "
            "dataset with all of them"
        )


def _made_as(job: Job) -> Any:
    """Return what two states of one dataset have in common, of which the later one may have been scored."""
    return {table: value for table, value in job["essentials"]["fetch"].items() if table not in CHANGING}


def _lists(job: Job) -> list[list[str]]:
    """Return what stands for the lists that a dataset was made from, to which others may be added."""
    return [[file["fingerprint"] for file in entry["files"]] for entry in job["lists"]]


def _bring_shards(
    shards: Sequence[StoredShard], source: StoredDataset, target: HubStorage, result: Pushed
) -> None:
    """Send the files of shards, then the records that commit them."""
    bare = source.without_shards()
    files: list[str] = []
    for shard in shards:
        if problems := check_shard("full", (bare, shard)).problems:
            raise DatasetError(
                f"{source.storage.url}/{problems[0].place}: {problems[0].what}; `turbo-fetch verify --repair` and a "
                "run make it anew"
            )
        record = source.record(shard)
        assert record is not None
        for file in record["files"]:
            files += _files_at(source.storage, file["name"])
        result.shards += 1
        result.rows += shard.rows
    changed = _changed(files, source.storage, target, result)
    # A shard that is replaced is none until it is whole again.
    for shard in shards:
        if any(name.startswith((f"{shard.name}.", f"{shard.name}/")) for name in changed):
            target.delete(names.stats(shard.name))
    _send(changed, source.storage, target, result)
    _bring([names.stats(shard.name) for shard in shards], source.storage, target, result)


def _files_at(storage: Storage, name: str) -> Iterator[str]:
    """Yield a file, or the files in a folder."""
    entries = list(storage.list(name)) if "." not in name.rpartition("/")[2] else []
    yield from (f"{name}/{entry.name}" for entry in entries) if entries else [name]


def _bring(files: Sequence[str], source: Storage, target: HubStorage, result: Pushed) -> None:
    """Send those of some files that are there, unless the Hub has them."""
    there = [name for name in files if source.exists(name)]
    _send(_changed(there, source, target, result), source, target, result)


def _changed(files: Sequence[str], source: Storage, target: HubStorage, result: Pushed) -> Sequence[str]:
    """Return the files of which the Hub does not have this content."""
    stored = target.hashes(files)
    changed = [name for name in files if name not in stored or not _is_same(source, name, stored[name])]
    result.files_there += len(files) - len(changed)
    return changed


def _is_same(source: Storage, name: str, digest: str) -> bool:
    """Return whether a file has a hash: sha256, or what Git calls it."""
    with source.open_file(name) as file:
        if len(digest) == 64:
            sha256 = hashlib.sha256()
            while block := file.read(READ_BYTES):
                sha256.update(block)
            return sha256.hexdigest() == digest
        content = file.read()
        return (
            hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == digest
        )


def _send(files: Sequence[str], source: Storage, target: HubStorage, result: Pushed) -> None:
    if not files:
        return
    with _on_this_machine(files, source) as paths:
        target.upload_files(paths)
        result.files += len(paths)
        result.bytes += sum(path.stat().st_size for path in paths.values())


@contextmanager
def _on_this_machine(files: Sequence[str], source: Storage) -> Iterator[dict[str, Path]]:
    """Yield where files are, by name, or copies of those that are elsewhere."""
    if source.path is not None:
        yield {name: source.path / name for name in files}
        return
    with tempfile.TemporaryDirectory(dir=source.make_work()) as folder:
        paths = {name: Path(folder) / str(number) for number, name in enumerate(files)}
        for name, path in paths.items():
            with source.open_file(name) as file, path.open("wb") as copy:
                shutil.copyfileobj(file, copy)
        yield paths
