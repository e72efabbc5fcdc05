"""The ledger: one row per URL of a shard, with all that is known of its download."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import reduce
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.rows import rows_at
from turbo_fetch.arrow.schemas import LEDGER
from turbo_fetch.dataset.keys import ShardKeys
from turbo_fetch.dataset.samples import LABELS, by_outcome
from turbo_fetch.outcomes import Outcome
from turbo_fetch.plan.urls import parse_urls
from turbo_fetch.redaction import shown_url

SHOWN: Final = ("key", "outcome", "http_status", "attempts", "detail", "url")
"""The columns that a person looks at first."""
FAILED: Final = "failed"

_RETRYABLE: Final = by_outcome({outcome: outcome.retryable for outcome in Outcome}, pa.bool_())


def ledger_batch(source: pa.RecordBatch, results: pa.RecordBatch, keys: ShardKeys) -> pa.RecordBatch:
    """Return the ledger rows (:data:`LEDGER`) of the rows in `results`, in the order of `results`.

    `source` holds all rows of the shard, row i at index i. Secrets in URLs are masked: who wants the list's own has
    the metadata.
    """
    rows = results.column("row").to_numpy()
    outcome = results.column("outcome").cast(pa.int32())
    columns = {
        "key": keys.take(rows),
        "url": _shown(rows_at(source.select(["url"]), rows).column("url").cast(pa.string())),
        "outcome": LABELS.take(outcome),
        "retryable": _RETRYABLE.take(outcome),
    }
    return pa.RecordBatch.from_arrays(
        [columns[name] if name in columns else results.column(name) for name in LEDGER.names], schema=LEDGER
    )


@dataclass(frozen=True, slots=True)
class LedgerQuery:
    """Which rows of a ledger are wanted; an empty one wants all."""

    outcomes: frozenset[str] = frozenset()
    """Labels of outcomes; `failed` stands for all but success."""
    host: str = ""
    """A host name, which stands for all hosts below it too, or an IP address, which stands for itself."""
    retryable: bool | None = None
    """Whether a failure may pass; rows that did not fail are not wanted then."""

    def rows(self, ledger: pa.Table) -> pa.Table:
        """Return the rows that are wanted, in their order."""
        conditions = []
        if self.outcomes:
            outcome = ledger.column("outcome")
            is_failed = pc.not_equal(outcome, Outcome.SUCCESS.label)
            named = pc.is_in(outcome, pa.array(self.outcomes - {FAILED}, pa.string()))
            conditions.append(pc.or_(named, is_failed) if FAILED in self.outcomes else named)
        if self.retryable is not None:
            conditions.append(pc.equal(ledger.column("retryable"), self.retryable))
            conditions.append(pc.not_equal(ledger.column("outcome"), Outcome.SUCCESS.label))
        if self.host:
            wanted = self.host.lower().strip(".")
            hosts = parse_urls(ledger.column("url").combine_chunks()).host
            below = None if is_address(wanted) else f".{wanted}"
            found = [host == wanted or (below is not None and (host or "").endswith(below)) for host in hosts]
            conditions.append(pa.array(found, pa.bool_()))
        return ledger.filter(reduce(pc.and_, conditions)) if conditions else ledger


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, or a part of one, rather than a name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host.replace(".", "").isdecimal()
    return True


def _shown(urls: pa.Array) -> pa.Array:
    return pa.array([url and shown_url(url) for url in urls.to_pylist()], pa.string())
