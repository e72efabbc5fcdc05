"""`migrate`: a dataset of an earlier version, whose records lay among the data, gets the layout of today.

Files move one by one, the job last, which is what tells the old layout from the new. Every step finds out by itself
whether it has been done, so that after an interruption the same command goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

from turbo_fetch.dataset import names
from turbo_fetch.dataset.card import write_card
from turbo_fetch.dataset.description import has_old_layout, read_job
from turbo_fetch.dataset.formats import data_suffixes
from turbo_fetch.dataset.lock import held
from turbo_fetch.dataset.manifest import Manifest, Record, read_record
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.seal import sealed_for_people
from turbo_fetch.errors import InputError, Interrupted
from turbo_fetch.progress.summary import counted
from turbo_fetch.runners.step import Progress
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage


@dataclass(slots=True)
class Migrated:
    """What a migration came to."""

    path: str
    shards: int = 0
    rows: int = 0
    without_ledger: list[str] = field(default_factory=list)
    """Shards whose ledger was missing before."""
    was_done: bool = False
    """Whether there was nothing to do."""

    def text(self) -> str:
        """Return it as lines for a person."""
        if self.was_done:
            return f"dataset   {self.path}\nmigrated  nothing: its records are in {names.FOLDER}/ already"
        lines = [
            f"dataset   {self.path}",
            f"migrated  {counted(self.shards, 'shard')}, {counted(self.rows, 'row')}; "
            f"their records are in {names.FOLDER}/ now",
        ]
        if self.without_ledger:
            first = ", ".join(self.without_ledger[:3])
            lines.append(
                f"note      {counted(len(self.without_ledger), 'shard')} had lost their ledger ({first}); "
                "`turbo-fetch verify` says what else they lack, and the next run makes them again"
            )
        return "\n".join(lines)


def migrate(url: str, progress: Progress, stop: StopRequest) -> Migrated:
    """Move the records of the dataset at `url`; samples and metadata are not touched.

    Raises InputError if there is no dataset, OutputError, or Interrupted, after which the same call goes on.
    """
    storage = open_place(url)
    result = Migrated(storage.url)
    if not has_old_layout(storage):
        if read_job(storage) is None:
            raise InputError(f"{storage.url}: there is no dataset; expected one made by turbo-fetch")
        result.was_done = True
        return result
    published: list[str] = []
    with held(storage, stop=stop):
        if not has_old_layout(storage):
            # Another command has done it since.
            result.was_done = True
            return result
        for place in (storage, *_attempts(storage)):
            for record in _shards(place, stop):
                if place is storage:
                    published.append(record["name"])
                    result.rows += record["rows"]
                progress.advance(record["rows"])
        result.shards = len(published)
        ledgers = {f"{names.LEDGERS}/{entry.name}" for entry in storage.list(names.LEDGERS)}
        result.without_ledger = [shard for shard in published if names.ledger(shard) not in ledgers]
        _move(storage, names.OLD_SPEC, names.SPEC)
        _move(storage, names.OLD_METRICS, names.METRICS)
        _move_logs(storage)
        _move_refresh(storage)
        _clean_work(storage)
        storage.delete(names.OLD_MANIFEST)
        # The manifest is made of the commit records.
        Manifest.open(storage).close()
        if storage.exists(names.CROISSANT):
            write_card(storage)
        storage.write_bytes(names.JOB, storage.read_bytes(names.OLD_JOB))
        storage.delete(names.OLD_JOB)
    return result


def _attempts(storage: Storage) -> Iterator[Storage]:
    """Yield what workers of a cluster published, of which some shards may not have been taken yet."""
    for entry in storage.list(names.ATTEMPTS):
        yield storage.inside(names.attempt(entry.name), storage.work)


def _shards(place: Storage, stop: StopRequest) -> Iterator[Record]:
    """Move the ledgers of a place, and name them anew in the commit records; yield those."""
    for entry in sorted(place.list(), key=lambda entry: entry.name):
        if stop:
            raise Interrupted("interrupted; what was moved stays so. Run the same command again to resume")
        if (shard := names.shard_of_old_ledger(entry.name)) is not None:
            _move(place, entry.name, names.ledger(shard))
        shard = names.shard_of_stats(entry.name)
        record = None if shard is None else read_record(place, shard)
        if shard is not None and record is not None:
            # The first versions left out the name.
            record.setdefault("name", shard)
            for file in record["files"]:
                if names.shard_of_old_ledger(file["name"]) is not None:
                    file["name"] = names.ledger(shard)
            place.write_bytes(entry.name, sealed_for_people(record))
            yield record


def _move_logs(storage: Storage) -> None:
    """Move what trackers wrote, which is on this machine only; what others put beside it stays."""
    if storage.path is None:
        return
    for tracker in ("tensorboard", "wandb"):
        _move(storage, f"{names.OLD_LOGS}/{tracker}", f"{names.LOGS}/{tracker}")
    if not any(storage.list(names.OLD_LOGS)):
        storage.delete(names.OLD_LOGS)


def _move_refresh(storage: Storage) -> None:
    """Move the report of a refresh, which may not be finished, file by file, and the mark that it is one last."""
    if not storage.exists(names.OLD_REFRESH_STATE):
        return
    for entry in list(storage.list(names.OLD_REFRESH)):
        shard = names.shard_of_metadata(entry.name)
        if shard is not None:
            _move(storage, f"{names.OLD_REFRESH}/{entry.name}", names.refresh_report(shard))
    _move(storage, names.OLD_REFRESH_STATE, names.REFRESH_STATE)
    if not any(storage.list(names.OLD_REFRESH)):
        storage.delete(names.OLD_REFRESH)


def _clean_work(storage: Storage) -> None:
    """Delete what a killed run had not finished, which had names of data; its spools have all that arrived."""
    pattern = names.shard_files(data_suffixes())
    for path in list(storage.make_work().iterdir()):
        is_half = pattern.fullmatch(path.name) or path.name.endswith(names.METADATA_SUFFIX)
        if path.name in {names.OLD_MANIFEST, names.OLD_METRICS} or is_half:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _move(storage: Storage, old: str, new: str) -> None:
    """Move a file or folder, unless that has been done or there is none."""
    if storage.exists(old):
        storage.move(old, new)
