"""The ledger: one row per URL of a shard, with all that is known of its download."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from turbo_fetch.arrow.schemas import LEDGER
from turbo_fetch.dataset.samples import LABELS, by_outcome, keys, source_rows
from turbo_fetch.outcomes import Outcome
from turbo_fetch.redaction import redact
from turbo_fetch.spec import OutputSpec

_RETRYABLE: Final = by_outcome({outcome: outcome.retryable for outcome in Outcome}, pa.bool_())


def ledger_batch(
    source: pa.RecordBatch, results: pa.RecordBatch, shard: int, output: OutputSpec
) -> pa.RecordBatch:
    """Return the ledger rows (:data:`LEDGER`) of the rows in `results`, in the order of `results`.

    `source` holds all rows of the shard, row i at index i. Secrets in URLs are masked: who wants the list's own has
    the metadata.
    """
    rows = results.column("row").to_numpy()
    outcome = results.column("outcome").cast(pa.int32())
    columns = {
        "key": keys(rows, shard, output),
        "url": _shown(source_rows(source.select(["url"]), rows).column("url").cast(pa.string())),
        "outcome": LABELS.take(outcome),
        "retryable": _RETRYABLE.take(outcome),
    }
    return pa.RecordBatch.from_arrays(
        [columns[name] if name in columns else results.column(name) for name in LEDGER.names], schema=LEDGER
    )


def _shown(urls: pa.Array) -> pa.Array:
    return pa.array([url and redact(url) for url in urls.to_pylist()], pa.string())
