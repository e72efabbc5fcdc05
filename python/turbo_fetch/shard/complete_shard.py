"""What is handed to the end of a shard. That end, with all writers, is imported by whoever comes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

    from turbo_fetch.spool.spool import Spool

LIST_NOTES: Final = "list_notes"
"""In a commit record: what was odd about the rows of the list, as `ListNotes` counts it."""


@dataclass(frozen=True, slots=True)
class CompleteShard:
    """A shard of whose rows every one is in its spool."""

    number: int
    source: pa.RecordBatch
    """All its rows, in order, as the list has them."""
    spool: Spool
    facts: Mapping[str, Any]
    """What its commit record says of its list."""
    times_s: tuple[float, float]
    """Its start and end since the epoch."""
