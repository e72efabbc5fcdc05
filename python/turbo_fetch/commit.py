"""The end of a shard: from its complete spool to published files and the record that commits them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.keys import shard_name
from turbo_fetch.ledger import LEDGER_SUFFIX, ledger_batch
from turbo_fetch.outcomes import BY_LABEL, BY_NUMBER, Outcome
from turbo_fetch.plan.urls import parse_urls
from turbo_fetch.samples import Samples, metadata_batch
from turbo_fetch.schema import LEDGER
from turbo_fetch.spec import FetchSpec
from turbo_fetch.spool import Spool
from turbo_fetch.storage import Storage
from turbo_fetch.writers import WrittenFile, write_shard
from turbo_fetch.writers.tables import TableFile

STATS_SUFFIX: Final = "_stats.json"
HOSTS_KEPT: Final = 20


@dataclass(slots=True)
class _Counts:
    """What is counted while the samples of a shard pass by."""

    outcomes: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    failing_hosts: Counter[str] = field(default_factory=Counter)
    body_bytes: int = 0

    def add(self, source: pa.RecordBatch, results: pa.RecordBatch, metadata: pa.RecordBatch) -> None:
        """Count a batch of results."""
        self.outcomes.update(BY_NUMBER[number].label for number in results.column("outcome").to_pylist())
        self.messages.update(message or "success" for message in metadata.column("error_message").to_pylist())
        self.body_bytes += pc.sum(results.column("body_bytes")).as_py() or 0
        failed = results.filter(pc.not_equal(results.column("outcome"), Outcome.SUCCESS.number))
        if failed.num_rows:
            parsed = parse_urls(source.column("url").take(failed.column("row")))
            self.failing_hosts.update(domain for domain in parsed.domain if domain is not None)

    def peer_count(self, status: str) -> int:
        """Return how many rows have this status in img2dataset's column."""
        return sum(count for label, count in self.outcomes.items() if BY_LABEL[label].peer_status == status)


def commit_shard(
    fetch: FetchSpec,
    storage: Storage,
    shard: int,
    source: pa.RecordBatch,
    spool: Spool,
    rows_digest: str,
    times_s: tuple[float, float],
) -> dict[str, Any]:
    """Write and publish the files of a complete shard; return the record that commits it.

    `source` holds all rows of the shard in order; `times_s` are its start and end since the epoch. The
    record is published last, as `NNNNN_stats.json`: a shard without it is not committed. Raises
    OutputError if something cannot be written; the spool then still has everything.
    """
    name, work = shard_name(shard, fetch.output.shard_digits), storage.make_work()
    counts = _Counts()
    with ExitStack() as stack:
        ledger = TableFile(work / f"{name}{LEDGER_SUFFIX}", LEDGER)
        stack.callback(ledger.close)
        samples = _samples(fetch, shard, source, spool, (ledger, counts))
        written = write_shard(fetch.output.format, samples, work, name, fetch.image)
        written.append(ledger.finish(f"{name}{LEDGER_SUFFIX}"))
    for file in written:
        storage.publish(file.path, file.name)
    record = _record((shard, name), counts, written, rows_digest, times_s)
    storage.write_bytes(f"{name}{STATS_SUFFIX}", orjson.dumps(record, option=orjson.OPT_INDENT_2))
    return record


def _samples(
    fetch: FetchSpec,
    shard: int,
    source: pa.RecordBatch,
    spool: Spool,
    beside: tuple[TableFile, _Counts],
) -> Iterator[Samples]:
    """Yield the samples in row order, and keep ledger and counts on the way: the spool is read once."""
    ledger, counts = beside
    for results in spool.sorted_batches():
        metadata = metadata_batch(source, results, shard, fetch.output, fetch.image)
        ledger.add(ledger_batch(source, results, shard, fetch.output))
        counts.add(source, results, metadata)
        yield Samples(metadata, results.column("image"), results.column("original_format"))


def _record(
    shard: tuple[int, str],
    counts: _Counts,
    written: list[WrittenFile],
    rows_digest: str,
    times_s: tuple[float, float],
) -> dict[str, Any]:
    """Return img2dataset's statistics, then what a resumed run and a check of the dataset need."""
    number, name = shard
    start_s, end_s = times_s
    rows = counts.outcomes.total()
    return {
        "count": rows,
        "successes": counts.peer_count("success"),
        "failed_to_download": counts.peer_count("failed_to_download"),
        "failed_to_resize": counts.peer_count("failed_to_resize"),
        "duration": end_s - start_s,
        "start_time": start_s,
        "end_time": end_s,
        "status_dict": dict(counts.messages.most_common()),
        "shard": number,
        "name": name,
        "rows": rows,
        "outcomes": dict(counts.outcomes.most_common()),
        "body_bytes": counts.body_bytes,
        "failing_hosts": dict(counts.failing_hosts.most_common(HOSTS_KEPT)),
        "files": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in written],
        "rows_digest": rows_digest,
    }
