"""A committed shard that gets other files, though nothing but its own files has its rows.

All of the new ones are staged, whole on disk, and then their commit record beside them, before any of the old ones
goes. That record says how to go on: whoever opens the manifest next publishes what is still to be published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from turbo_fetch.dataset import names
from turbo_fetch.dataset.seal import sealed_for_people
from turbo_fetch.storage import Storage
from turbo_fetch.storage.disk import replace_with, sync, sync_one, unfinished_in
from turbo_fetch.storage.failures import explained
from turbo_fetch.storage.local import remove


def replace_shard(storage: Storage, staged: Iterable[Path], record: Mapping[str, Any]) -> None:
    """Publish the files of a shard, which are staged, and last their record, in place of the old.

    Raises OutputError if something cannot be written; `finish_replacements` then goes on.
    """
    folder = storage.make_staging()
    with explained(str(folder)):
        for path in staged:
            sync(path)
        # The record must not be on disk before the names of the files are.
        sync_one(folder)
        replace_with(folder / names.staged(names.stats(record["name"])), sealed_for_people(record))
    _publish(storage, folder, record)


def finish_replacements(storage: Storage) -> None:
    """Publish the rest of the shards whose files were being replaced when a command was killed.

    Where another commit record is there, none of the old files is gone, or somebody else has made the shard since.
    """
    for path in _waiting(storage):
        content = path.read_bytes()
        record = orjson.loads(content)
        if _published(storage, names.stats(record["name"])) in {None, content}:
            _publish(storage, path.parent, record)
        else:
            _discard(path)
        _discard_emptied(storage, path.parent)


def discard_replacements(storage: Storage) -> None:
    """Forget the shards whose files were being replaced: what is there from now on is another dataset."""
    for path in _waiting(storage):
        _discard(path)
        _discard_emptied(storage, path.parent)


def _waiting(storage: Storage) -> Sequence[Path]:
    """Return the commit records that wait, whoever staged them."""
    folders = (storage.work, *unfinished_in(storage.work))
    found = [path for folder in folders for path in names.staged_stats(folder)]
    # After they are found: who has the lease still finds nothing of one that has it next.
    storage.check_fence()
    return found


def _discard_emptied(storage: Storage, folder: Path) -> None:
    """Delete the folder of a holder before this one when no record waits there any more."""
    if folder not in {storage.work, storage.staging} and not names.staged_stats(folder):
        remove(folder)


def _published(storage: Storage, stats: str) -> bytes | None:
    """Return the commit record of this name, None if there is none."""
    try:
        return storage.read_bytes(stats)
    except FileNotFoundError:
        return None


def _discard(staged: Path) -> None:
    record = orjson.loads(staged.read_bytes())
    staged.unlink()
    for file in record["files"]:
        remove(staged.with_name(names.staged(file["name"])))


def _publish(storage: Storage, folder: Path, record: Mapping[str, Any]) -> None:
    """Publish those files that are still staged in a folder, and last the record; may be repeated."""
    stats = names.stats(record["name"])
    storage.delete(stats)
    for name in (*(file["name"] for file in record["files"]), stats):
        path = folder / names.staged(name)
        if path.exists():
            storage.publish(path, name)
    with explained(str(folder)):
        # Or power loss may bring the record back when the shard has yet other files.
        sync_one(folder)
