"""What killed commands left of the files that they were writing: it goes when the next one takes the lease."""

from __future__ import annotations

import shutil
from collections.abc import Container
from contextlib import suppress

from turbo_fetch.dataset import names
from turbo_fetch.storage import Storage
from turbo_fetch.storage.disk import discard_unfinished, sync_one, unfinished_in
from turbo_fetch.storage.failures import explained


def discard_leftovers(storage: Storage, is_whole: bool) -> None:
    """Delete the unfinished files of a dataset, or of a part; those of the user's, who may have hidden files too, stay.

    Nobody else may be at work there: whoever has the lease knows that, and so takes away what one that has lost it, and
    stands still, is about to publish. Shards that wait to replace others stay.
    """
    found = unfinished_in(storage.work)
    if is_whole and storage.path is not None:
        for folder in (names.FOLDER, names.LEDGERS, names.REFRESH):
            found |= unfinished_in(storage.path / folder)
        beside = unfinished_in(storage.path)
        found |= {path: name for path, name in beside.items() if _is_ours(name)}
    # After they are found: who has the lease still finds nothing of one that has it next.
    storage.check_fence()
    for path in found:
        if not names.staged_stats(path):
            with explained(str(path)):
                discard_unfinished(path)


def discard_spools_of_runs(storage: Storage, committed: Container[int]) -> None:
    """Delete the spools that runs left of committed shards, in which nothing is wanted any more.

    A run was killed just before it did so, or had lost its lease and did not know yet.
    """
    published = [path for name, path in names.spools(storage.make_work()) if int(name) in committed]
    if published:
        # Most commands begin with none.
        from turbo_fetch.spool.spool import is_of_run, spool_identity

        storage.check_fence()
        for path in published:
            if is_of_run(spool_identity(path)):
                path.unlink()


def discard_staged(storage: Storage) -> None:
    """Delete what a holder of the lease, who is at its end, has staged, but for shards that wait to replace others."""
    if storage.staging.exists() and not names.staged_stats(storage.staging):
        shutil.rmtree(storage.staging, ignore_errors=True)
        # A power loss brings back what no sync has taken away. What cannot be deleted is the next holder's to delete.
        with suppress(OSError):
            sync_one(storage.work)


def _is_ours(name: str) -> bool:
    """Return whether a file beside `.turbo-fetch/` is one that a dataset has."""
    # Imports all formats.
    from turbo_fetch.dataset.formats import data_suffixes

    return name in {names.README, names.CROISSANT, names.REPORT} or bool(
        names.shard_files(data_suffixes()).fullmatch(name)
    )
