"""How an image on the web differs from the one in a dataset: decided from results alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.outcomes import BY_NUMBER, Outcome

NOT_MODIFIED: Final = 304

UNCHANGED: Final = "unchanged"
CHANGED: Final = "changed"
GONE: Final = "gone"
REFUSED: Final = "refused"
UNUSABLE: Final = "unusable"
UNREACHABLE: Final = "unreachable"

_GONE_STATUS: Final = frozenset({404, 410})
_REFUSALS: Final = frozenset({Outcome.ROBOTS, Outcome.OPT_OUT, Outcome.DENIED})


def drift_of(outcome: Outcome, http_status: int | None, digest: str | None, old_digest: str | None) -> str:
    """Return how a sample has drifted, from how asking for it again has ended.

    `unchanged`: not modified, or the same bytes. `changed`: an image of other bytes. `gone`: 404, 410, no such
    host. `refused`: use is forbidden now. `unusable`: something that is no image for this dataset any more.
    `unreachable`: anything else, which says nothing about the image.
    """
    if outcome is Outcome.SUCCESS:
        return UNCHANGED if http_status == NOT_MODIFIED or digest == old_digest else CHANGED
    if outcome is Outcome.NO_SUCH_HOST or (outcome is Outcome.HTTP_4XX and http_status in _GONE_STATUS):
        return GONE
    if outcome in _REFUSALS:
        return REFUSED
    return UNUSABLE if outcome.img2dataset_status == "failed_to_resize" else UNREACHABLE


def drifts(old: pa.RecordBatch, new: pa.RecordBatch) -> list[str | None]:
    """Return the drift of each row of two equal ranges of results; None where there was no sample."""
    asked = pc.equal(old.column("outcome"), Outcome.SUCCESS.number).to_pylist()
    facts = zip(
        *(new.column(name).to_pylist() for name in ("outcome", "http_status", "digest")),
        old.column("digest").to_pylist(),
        strict=True,
    )
    return [
        drift_of(BY_NUMBER[outcome], status, digest, before) if is_sample else None
        for is_sample, (outcome, status, digest, before) in zip(asked, facts, strict=True)
    ]


def paired(
    old: Iterator[pa.RecordBatch], new: Iterator[pa.RecordBatch]
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Yield the same rows of both, however they are cut into batches."""
    left, right = next(old, None), next(new, None)
    while left is not None and right is not None:
        count = min(left.num_rows, right.num_rows)
        yield left.slice(0, count), right.slice(0, count)
        left = left.slice(count) if count < left.num_rows else next(old, None)
        right = right.slice(count) if count < right.num_rows else next(new, None)
