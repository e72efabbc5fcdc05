"""Finished shards with the rows of their list, for what a dataset does not keep: boxes, and hashes of rows that failed.

The list is read again, by the plan by which it was read before. It has to be the same: its files are compared with
those of the job, and the rows of each shard with the digest in its commit record.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from turbo_fetch.dataset.description import read_job
from turbo_fetch.errors import InputError
from turbo_fetch.plan.list_notes import ListNotes
from turbo_fetch.plan.lists import ListFile, find_lists
from turbo_fetch.plan.sharder import AllBut, Plan, Rows
from turbo_fetch.shard import results
from turbo_fetch.shard.task import ShardTask, ShardWork
from turbo_fetch.spec import FetchSpec, ImageSpec
from turbo_fetch.storage import Storage


@dataclass(frozen=True, slots=True)
class SameRows:
    """Rows of the list that must be those from which the shard was made. It can be pickled."""

    rows: Rows
    digest: str
    image: ImageSpec
    shard: int

    @property
    def local_path(self) -> Path | None:
        """See Rows."""
        return self.rows.local_path

    def load(self, notes: ListNotes) -> pa.Table:
        """See Rows; InputError if they are other ones now."""
        table = self.rows.load(notes)
        if results.rows_digest(results.one_batch(table), self.image) != self.digest:
            raise InputError(
                f"the list has other rows now than those from which shard {self.shard} was made; expected the same list"
            )
        return table


class ExistingShard(ShardWork, Protocol):
    """What is done with an existing shard, some of whose rows are asked for again."""

    @property
    def rows_digest(self) -> str:
        """The digest of the shard's rows, as it was when they came from the list."""


def why_listed(fetch: FetchSpec) -> str | None:
    """Return what rows need that only their list has, None if the dataset has it all.

    As in img2dataset, where the demanded and the recorded hash are of one kind there is one column for both, and it is
    null where a row has failed.
    """
    if fetch.input.image_column is not None:
        return f"the images (fetch.input.image_column = {fetch.input.image_column!r})"
    if fetch.input.warc is not None:
        return f"the places of the records (fetch.input.warc.file_column = {fetch.input.warc.file_column!r})"
    if fetch.input.boxes_column is not None:
        return f"the boxes (fetch.input.boxes_column = {fetch.input.boxes_column!r})"
    if fetch.input.hash_column is not None and fetch.input.hash_kind == fetch.image.digest:
        return f"the hashes of rows that failed (fetch.input.hash_column = {fetch.input.hash_column!r})"
    return None


def listed_shards(
    storage: Storage, fetch: FetchSpec, wanted: Mapping[int, ExistingShard], why: str
) -> Iterator[ShardTask]:
    """Yield the shards in `wanted`, by their number, with the rows of their lists, in order.

    A list is that of the spec, or else the files that the dataset was made from, where they were. Raises InputError,
    which says `why` the list is needed, if one is gone or has changed, or shards follow none.
    """
    job = read_job(storage)
    entries = [] if job is None else job["lists"]
    starts = [entry["first_shard"] for entry in entries]
    if min(wanted, default=math.inf) < min(starts, default=math.inf):
        raise InputError(
            f"{why} are in the list alone, and shards that `turbo-fetch export` has cut anew follow no list. Use the "
            "same command on the dataset that they were cut from, and export it again"
        )
    for entry, stop in zip(entries, [*starts[1:], None], strict=True):
        numbers = [
            number for number in wanted if number >= entry["first_shard"] and (stop is None or number < stop)
        ]
        if not numbers:
            continue
        plan = Plan(_files(entry["files"], fetch, why), fetch.input, fetch.output.samples_per_shard)
        for shard in plan.shards(entry["first_shard"], skip=AllBut(frozenset(numbers))):
            existing = wanted[shard.id]
            rows = SameRows(shard.rows, existing.rows_digest, fetch.image, shard.id)
            yield ShardTask(replace(shard, rows=rows), existing)


def _files(recorded: Sequence[Mapping[str, Any]], fetch: FetchSpec, why: str) -> list[ListFile]:
    """Return the files of a list that a dataset was made from."""
    names = ", ".join(str(file["url"]) for file in recorded[:3])
    problem = "it has changed since, or is another one"
    for urls in (fetch.input.urls, tuple(str(file["url"]) for file in recorded)):
        try:
            files = find_lists(fetch.input.model_copy(update={"urls": urls}))
        except InputError as error:
            problem = str(error)
            continue
        if [file.fingerprint for file in files] == [file["fingerprint"] for file in recorded]:
            return files
    raise InputError(
        f"{why} are in the list alone, not in the dataset, and the list ({names}) cannot be read as it was: {problem}. "
        "Restore it, or say where it is: --set fetch.input.urls=…"
    )
