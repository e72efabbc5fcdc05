"""Whether a list still has the rows from which the committed shards of its dataset were made.

The commit record of a shard has a digest of its rows. The list is read again to compare them, where its files are not
in the state in which they were read before: as long as they are, no byte has changed.
"""

from __future__ import annotations

from collections.abc import Mapping

from turbo_fetch.dataset.job import Dataset
from turbo_fetch.errors import Interrupted, OutputExists
from turbo_fetch.plan.sharder import AllBut, Plan
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import FetchSpec
from turbo_fetch.stop import StopRequest


def refuse_changed_list(
    plan: Plan, dataset: Dataset, fetch: FetchSpec, listener: ProgressListener, stop: StopRequest
) -> None:
    """Raise OutputExists if a committed shard was made from other rows than its list has now.

    Raises InputError if the list cannot be read, and Interrupted if asked to stop.
    """
    committed = dataset.committed_of_list
    digests = {record["shard"]: record.get("rows_digest") for record in dataset.records()}
    left = {shard: str(digests[shard]) for shard in committed if digests.get(shard) is not None}
    if not left:
        return
    listener.note(f"comparing the list, whose files may have changed, with {len(left):,} finished shards")
    changed = _first_changed(plan, left, dataset.first_shard, fetch, stop)
    if changed is not None:
        raise OutputExists(
            f"{fetch.output.path}: shard {changed} was made from other rows than {fetch.input.urls} has there now: the "
            "list has changed since. Restore it, or choose another fetch.output.path, or set fetch.output.if_exists "
            'to "overwrite"'
        )


def _first_changed(
    plan: Plan, digests: Mapping[int, str], first_shard: int, fetch: FetchSpec, stop: StopRequest
) -> int | None:
    """Return the first shard whose rows have another digest, or are there no more; None if there is none."""
    from turbo_fetch.shard.results import one_batch, rows_digest

    left = dict(digests)
    for shard in plan.again().shards(first_shard, skip=AllBut(digests)):
        if stop:
            raise Interrupted("interrupted while the list was compared; nothing has been changed")
        if rows_digest(one_batch(shard.load()), fetch.image) != left.pop(shard.id):
            return shard.id
    return min(left, default=None)
