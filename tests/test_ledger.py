"""The ledger: one row per URL, in order, with what happened."""

from __future__ import annotations

import pyarrow as pa
import pytest

from shard_data import STARTED, fails, per_shard, results, source
from turbo_fetch.arrow.schemas import LEDGER, RESULTS
from turbo_fetch.dataset.keys import ShardKeys
from turbo_fetch.dataset.ledger import ledger_batch
from turbo_fetch.dataset.names import sample_key
from turbo_fetch.outcomes import Outcome


def test_every_row_has_its_url_outcome_and_facts() -> None:
    batch = ledger_batch(source(20), results(range(20)), ShardKeys(4, per_shard(100)))
    assert batch.schema.equals(LEDGER)
    for row, entry in enumerate(batch.to_pylist()):
        assert (entry["key"], entry["url"]) == (
            sample_key(4, row, 100),
            f"http://h{row % 3}.example/{row}.png",
        )
        assert entry["outcome"] == ("http-4xx" if fails(row) else "success")
        assert entry["detail"] == ("HTTP Error 404: Not Found" if fails(row) else None)
        assert (entry["http_status"], entry["body_bytes"]) == (404 if fails(row) else 200, 1000 + row)
        assert entry["redirects"] == ([f"http://r.example/{row}"] if row % 2 and not fails(row) else None)
        assert (entry["attempts"], entry["started"], entry["total_ms"]) == (1, STARTED, 1.5)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_its_name_and_says_whether_to_try_again(outcome: Outcome) -> None:
    values = {**results([0]).to_pylist()[0], "outcome": outcome.number}
    batch = pa.RecordBatch.from_pylist([values], schema=RESULTS)
    (entry,) = ledger_batch(source(1), batch, ShardKeys(0, per_shard(10))).to_pylist()
    assert (entry["outcome"], entry["retryable"]) == (outcome.label, outcome.retryable)


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_urls_of_any_string_type_become_strings_and_a_null_stays(kind: pa.DataType) -> None:
    listed = pa.RecordBatch.from_arrays([pa.array(["http://a/", None], pa.string()).cast(kind)], ["url"])
    assert ledger_batch(listed, results([1, 0]), ShardKeys(0, per_shard(10))).column("url").to_pylist() == [
        None,
        "http://a/",
    ]
