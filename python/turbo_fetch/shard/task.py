"""A shard to be worked on, and what is made of its rows: a shard for the first time, or an existing one anew.

A parent only hands tasks on, and starts faster if that imports little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from turbo_fetch.dataset import names
from turbo_fetch.plan.sharder import Shard

if TYPE_CHECKING:
    import pyarrow as pa

    from turbo_fetch.dataset.attempts import Replaced
    from turbo_fetch.dataset.manifest import Record
    from turbo_fetch.shard.complete_shard import CompleteShard
    from turbo_fetch.spec import FetchSpec
    from turbo_fetch.storage import Storage


class ShardWork(Protocol):
    """What differs between a shard made for the first time and an existing one; pickled, and its methods block."""

    @property
    def replaced(self) -> Replaced | None:
        """The version of the shard that is committed, None if none is."""

    @property
    def scores(self) -> bool:
        """Whether its images are to be scored, where the spec has a function for that."""

    @property
    def has_spool(self) -> bool:
        """Whether its spool is there once it is prepared: without it, rows would be asked for that are not to be."""

    def prepare(self, shard: int, source: pa.RecordBatch, fetch: FetchSpec, work: Path) -> tuple[Path, str]:
        """Return the path of the spool, in the work folder, and the digest of the shard's rows when they were listed.

        The spool holds the rows that are not to be asked for; one of an earlier attempt is left as it is.
        """

    def headers(self) -> Mapping[int, Mapping[str, str]]:
        """Return further request headers by row."""

    def commit(self, fetch: FetchSpec, storage: Storage, complete: CompleteShard) -> Record:
        """Publish what is made of the complete shard; return the commit record. Raises as `commit_shard`."""


@dataclass(frozen=True, slots=True)
class NewShard:
    """A shard that is made for the first time."""

    scores: ClassVar[bool] = True
    has_spool: ClassVar[bool] = False

    @property
    def replaced(self) -> None:
        """See ShardWork."""

    def prepare(self, shard: int, source: pa.RecordBatch, fetch: FetchSpec, work: Path) -> tuple[Path, str]:
        """See ShardWork."""
        from turbo_fetch.shard.results import rows_digest

        name = names.shard_name(shard, fetch.output.shard_digits)
        return work / names.spool(name), rows_digest(source, fetch.image)

    def headers(self) -> Mapping[int, Mapping[str, str]]:
        """See ShardWork."""
        return {}

    def commit(self, fetch: FetchSpec, storage: Storage, complete: CompleteShard) -> Record:
        """See ShardWork."""
        from turbo_fetch.shard.commit import commit_shard

        return commit_shard(fetch, storage, complete)


NEW_SHARD: Final = NewShard()


@dataclass(frozen=True, slots=True)
class ShardTask:
    """What a worker is given: a shard and how it is worked on. It can be pickled."""

    shard: Shard
    work: ShardWork = NEW_SHARD
    died_by: Signals | None = None
    """The signal that ended the worker that had the shard before, None if none did, or nobody knows."""
