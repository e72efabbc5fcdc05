"""What a shard that was finished before has to say when some of its rows are asked for again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from turbo_fetch.dataset.manifest import Record
    from turbo_fetch.spec import FetchSpec
    from turbo_fetch.spool.spool import Spool
    from turbo_fetch.storage import Storage


class Known(Protocol):
    """Travels with the shard to whoever runs it, pickled; its methods block."""

    @property
    def rows_digest(self) -> str:
        """The digest of the shard's rows, as it was when they came from the list."""

    def prepare(self, work: Path) -> Path:
        """Make the spool, in the work folder, with the rows that are not to be asked for; return its path.

        A spool that is there already, of an earlier attempt, is left as it is.
        """

    def headers(self) -> Mapping[int, Mapping[str, str]]:
        """Return the further request headers of rows."""

    def commit(
        self,
        fetch: FetchSpec,
        storage: Storage,
        source: pa.RecordBatch,
        spool: Spool,
        times_s: tuple[float, float],
    ) -> Record:
        """Make what is to be made of the complete spool; return the commit record. See `commit_shard`."""
