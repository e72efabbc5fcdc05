"""What is turned away before an image is decoded: wrong hashes, what is denied, and boxes that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, cast

import pyarrow as pa

from turbo_fetch.arrow.binaries import Blob
from turbo_fetch.arrow.schemas import BOXES, EXPECTED_HASH
from turbo_fetch.fetch.request import Fetched
from turbo_fetch.outcomes import Outcome
from turbo_fetch.shard.boxes import Box, used_boxes
from turbo_fetch.shard.deny_lists import HASH_KINDS, DenyList, hash_key, is_hex
from turbo_fetch.shard.transform import digests
from turbo_fetch.spec import HashKind, InputSpec

MISMATCH: Final = "hash mismatch"
Ended = list[tuple[int, Fetched]]


@dataclass(frozen=True, slots=True)
class Prefiltered:
    """A batch after the prefilter: rows turned away have lost their body; the rest is for those that have one."""

    ended: Ended
    boxes: list[list[Box]]
    """Boxes of each row with a body, in their order; empty if the job has none."""
    notes: list[str | None]
    """What the ledger is to say of each row with a body that succeeds."""


def prefilter(ended: Ended, source: pa.RecordBatch, rules: InputSpec, deny: DenyList | None) -> Prefiltered:
    """Apply the rules to a batch of rows that have ended; `source` has all rows of the shard. Blocks."""
    mismatches = _mismatches(ended, source, rules.hash_kind) if rules.hash_column is not None else {}
    if rules.on_hash_mismatch == "drop":
        ended = _turned_away(ended, mismatches, Outcome.HASH_MISMATCH)
    if deny is not None:
        ended = _turned_away(ended, _denied_hashes(ended, deny), Outcome.DENIED)
    if rules.boxes_column is None:
        boxes: dict[int, list[Box]] = {}
    else:
        texts = source.column(BOXES)
        parsed = {row: used_boxes(texts[row].as_py(), rules.boxes_use) for row, _ in _with_body(ended)}
        problems = {row: problem for row, (_, problem) in parsed.items() if problem is not None}
        ended = _turned_away(ended, problems, Outcome.BAD_BOXES)
        boxes = {row: found for row, (found, _) in parsed.items()}
    left = [row for row, _ in _with_body(ended)]
    return Prefiltered(
        ended, [boxes[row] for row in left] if boxes else [], [mismatches.get(row) for row in left]
    )


def _with_body(ended: Ended) -> list[tuple[int, Blob]]:
    return [(row, fetched.body) for row, fetched in ended if fetched.body is not None]


def _turned_away(ended: Ended, reasons: dict[int, str], outcome: Outcome) -> Ended:
    if not reasons:
        return ended
    return [
        (row, replace(fetched, outcome=outcome, detail=reasons[row], body=None))
        if row in reasons
        else (row, fetched)
        for row, fetched in ended
    ]


def _mismatches(ended: Ended, source: pa.RecordBatch, kind: HashKind) -> dict[int, str]:
    """Return the rows whose body is not the one that the list promises, and what to say of them.

    A row without a usable hash cannot be verified, and so is a mismatch too.
    """
    name = next(name for name, named in EXPECTED_HASH.items() if named == kind)
    expected, bodies = source.column(name), _with_body(ended)
    found = digests(kind, [body for _, body in bodies])
    problems = {
        row: _mismatch(expected[row].as_py(), digest, kind)
        for (row, _), digest in zip(bodies, found, strict=True)
    }
    return {row: problem for row, problem in problems.items() if problem is not None}


def _mismatch(expected: str | None, digest: str, kind: HashKind) -> str | None:
    text = (expected or "").strip()
    if text.lower() == digest:
        return None
    if not text:
        return f"{MISMATCH}: the list has none"
    if HASH_KINDS.get(len(text)) != kind or not is_hex(text):
        return f"{MISMATCH}: the list's is no {kind} in hex"
    return MISMATCH


def _denied_hashes(ended: Ended, deny: DenyList) -> dict[int, str]:
    bodies = _with_body(ended)
    denied: dict[int, str] = {}
    for kind, keys in deny.hashes.items():
        found = digests(cast(HashKind, kind), [body for _, body in bodies])
        for (row, _), is_denied in zip(
            bodies, keys.contains([hash_key(digest) for digest in found]), strict=True
        ):
            if is_denied:
                denied[row] = f"{kind} is on a deny list"
    return denied
