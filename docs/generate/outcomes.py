"""The table of outcomes, from their enumeration."""

from __future__ import annotations

from turbo_fetch.outcomes import MEANINGS, Outcome

INTRODUCTION = """\
# Outcomes

Every row of a list ends with exactly one of these. The ledger (`turbo-fetch ledger DATASET`) has the outcome of each
row, whether it is retryable, and a detail; the metadata (`NNNNN.parquet`) has img2dataset's `status` and, as
`error_message`, the detail.
Retryable failures may be temporary: they are retried within a run (`fetch.http.retries`) and by `turbo-fetch retry`.

| Outcome | Meaning | Retryable | `status` | Number |
|---|---|---|---|---|
"""


def outcomes_page() -> str:
    """Return the page."""
    return INTRODUCTION + "".join(f"{_row(outcome)}\n" for outcome in Outcome)


def _row(outcome: Outcome) -> str:
    retryable = "yes" if outcome.retryable else "no"
    meaning = MEANINGS[outcome]
    return (
        f"| `{outcome.label}` | {meaning} | {retryable} | `{outcome.img2dataset_status}` | {outcome.number} |"
    )
