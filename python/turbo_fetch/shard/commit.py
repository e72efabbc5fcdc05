"""The end of a shard: from its rows to published files and the record that commits them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.schemas import LEDGER
from turbo_fetch.dataset import names
from turbo_fetch.dataset.attempts import Replaced
from turbo_fetch.dataset.formats import WrittenFile, write_shard
from turbo_fetch.dataset.formats.table_file import TableFile
from turbo_fetch.dataset.keys import ShardKeys
from turbo_fetch.dataset.ledger import ledger_batch
from turbo_fetch.dataset.manifest import Record
from turbo_fetch.dataset.replacement import replace_shard
from turbo_fetch.dataset.samples import Samples, metadata_batch, samples_of
from turbo_fetch.dataset.seal import sealed_for_people
from turbo_fetch.outcomes import Outcome
from turbo_fetch.plan.urls import parse_urls
from turbo_fetch.progress.size_histogram import SizeHistogram
from turbo_fetch.score.judgement import Judgement
from turbo_fetch.score.messages import SCORED_BY
from turbo_fetch.shard.complete_shard import LIST_NOTES, CompleteShard
from turbo_fetch.spec import FetchSpec, ImageSpec, OutputFormat
from turbo_fetch.storage import Storage
from turbo_fetch.storage.local import remove

HOSTS_KEPT: Final = 20
REASONS_KEPT: Final = 20
_NO_FAULT_OF_HOSTS: Final = frozenset(
    outcome.label for outcome in (Outcome.SUCCESS, Outcome.FILTERED, Outcome.UNSCORED)
)


class Rows(NamedTuple):
    """A batch of rows of a shard on their way into its files: samples, and their ledger in the same order."""

    samples: Samples
    ledger: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """Which shard is written, under which name, and how."""

    number: int
    name: str
    format: OutputFormat
    image: ImageSpec
    extras: bool = True


@dataclass(slots=True)
class _Counts:
    """What is counted while the rows of a shard pass by."""

    outcomes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    """Rows by img2dataset's status."""
    messages: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Failed rows by outcome and detail."""
    hosts: Counter[str] = field(default_factory=Counter)
    failing_hosts: Counter[str] = field(default_factory=Counter)
    shapes: SizeHistogram = field(default_factory=SizeHistogram)
    body_bytes: int = 0

    def add(self, rows: Rows) -> None:
        """Count a batch."""
        messages = rows.samples.metadata.column("error_message").to_pylist()
        self.messages.update(message or "success" for message in messages)
        self.statuses.update(rows.samples.metadata.column("status").to_pylist())
        outcomes = rows.ledger.column("outcome")
        self.outcomes.update(outcomes.to_pylist())
        details = rows.ledger.column("detail").to_pylist()
        self.reasons.update(
            f"{label}: {detail or ''}"
            for label, detail in zip(outcomes.to_pylist(), details, strict=True)
            if label != Outcome.SUCCESS.label
        )
        self.body_bytes += pc.sum(rows.ledger.column("body_bytes")).as_py() or 0
        domains = parse_urls(rows.ledger.column("url")).domain
        self.hosts.update(domain for domain in domains if domain is not None)
        self.failing_hosts.update(
            domain
            for domain, outcome in zip(domains, outcomes.to_pylist(), strict=True)
            if domain is not None and outcome not in _NO_FAULT_OF_HOSTS
        )
        sides = rows.samples.metadata.select(["original_width", "original_height"])
        widths, heights = (
            column.drop_null().to_numpy(zero_copy_only=False).astype(np.int64) for column in sides.columns
        )
        self.shapes.add(widths, heights)


def commit_shard(
    fetch: FetchSpec,
    storage: Storage,
    complete: CompleteShard,
    replaced: Replaced | None = None,
) -> Record:
    """Write and publish the files of a complete shard; return the record that commits it.

    Of one that is `replaced` those files stay that are the same. Raises OutputError if something cannot be written; the
    spool then still has everything.
    """
    number, output = complete.number, fetch.output
    name = names.shard_name(number, output.shard_digits)
    files = ShardFiles(number, name, output.format, fetch.image, output.extras)
    keys = ShardKeys.of(complete.source, number, output)
    facts = dict(complete.facts)
    if keys.notes is not None:
        facts[LIST_NOTES] = {**facts.get(LIST_NOTES, {}), **keys.notes}
    rows = _spooled_rows(fetch, complete, keys)
    return publish_shard(storage, files, rows, complete.times_s, facts, replaced)


def publish_shard(
    storage: Storage,
    files: ShardFiles,
    rows: Iterable[Rows],
    times_s: tuple[float, float],
    facts: dict[str, Any],
    replaced: Replaced | None = None,
) -> Record:
    """Write and publish the files of a shard from all its rows in order; return the record that commits it.

    The record, to which `facts` are added, is published last, as `NNNNN_stats.json`: a shard without it is not
    committed. One that is there from before is deleted first, so that no reader mixes old files with new ones; of one
    that is `replaced` those files stay that are the same. Raises OutputError if something cannot be written.
    """
    written, record = _written(storage, files, rows, times_s, facts)
    storage.delete(names.stats(files.name))
    for file in written:
        if replaced is not None and replaced.files.get(file.name) == file.sha256:
            remove(file.path)
        else:
            storage.publish(file.path, file.name)
    storage.write_bytes(names.stats(files.name), sealed_for_people(record))
    return record


def republish_shard(
    storage: Storage,
    files: ShardFiles,
    rows: Iterable[Rows],
    times_s: tuple[float, float],
    facts: dict[str, Any],
) -> Record:
    """Do the same where the rows come from the files of the shard itself: what is killed here is not made again.

    See :mod:`turbo_fetch.dataset.replacement`.
    """
    written, record = _written(storage, files, rows, times_s, facts)
    replace_shard(storage, [file.path for file in written], record)
    return record


def list_facts(record: Record | None) -> dict[str, Any]:
    """Return what a commit record says of the list, for a record of the same rows."""
    return (
        {name: record[name] for name in ("rows_digest", LIST_NOTES, SCORED_BY) if name in record}
        if record
        else {}
    )


def _written(
    storage: Storage,
    files: ShardFiles,
    rows: Iterable[Rows],
    times_s: tuple[float, float],
    facts: dict[str, Any],
) -> tuple[list[WrittenFile], Record]:
    """Stage the files of a shard; return them in the order to publish them, and the record."""
    folder = storage.make_staging()
    counts = _Counts()
    with ExitStack() as stack:
        ledger = TableFile(folder / names.staged(names.ledger(files.name)), LEDGER)
        stack.callback(ledger.close)
        written = write_shard(
            files.format, _noted(rows, ledger, counts), folder, files.name, files.image, files.extras
        )
        written.append(ledger.finish(names.ledger(files.name)))
    return written, _record(files, counts, written, times_s) | facts


def _spooled_rows(fetch: FetchSpec, complete: CompleteShard, keys: ShardKeys) -> Iterator[Rows]:
    source = complete.source
    judgement = None if fetch.score is None else Judgement(fetch.score, complete.spool.scores())
    metadata_of = partial(metadata_batch, source, keys=keys, image=fetch.image)
    for results in complete.spool.sorted_batches():
        if judgement is None:
            metadata = metadata_of(results)
        else:
            results, metadata = judgement.of(results, metadata_of)
        yield Rows(samples_of(results, metadata, fetch.image), ledger_batch(source, results, keys))


def _noted(rows: Iterable[Rows], ledger: TableFile, counts: _Counts) -> Iterator[Samples]:
    """Yield the samples, and keep ledger and counts on the way: the rows are read once."""
    for batch in rows:
        ledger.add(batch.ledger)
        counts.add(batch)
        yield batch.samples


def _record(
    files: ShardFiles, counts: _Counts, written: list[WrittenFile], times_s: tuple[float, float]
) -> Record:
    """Return img2dataset's statistics, then what a resumed run and a check of the dataset need."""
    start_s, end_s = times_s
    rows = counts.outcomes.total()
    return {
        "count": rows,
        "successes": counts.statuses["success"],
        "failed_to_download": counts.statuses["failed_to_download"],
        "failed_to_resize": counts.statuses["failed_to_resize"],
        "duration": end_s - start_s,
        "start_time": start_s,
        "end_time": end_s,
        "status_dict": dict(counts.messages.most_common()),
        "shard": files.number,
        "name": files.name,
        "rows": rows,
        "outcomes": dict(counts.outcomes.most_common()),
        "reasons": dict(counts.reasons.most_common(REASONS_KEPT)),
        "body_bytes": counts.body_bytes,
        "hosts": dict(counts.hosts.most_common(HOSTS_KEPT)),
        "shapes": counts.shapes.as_record(),
        "failing_hosts": dict(counts.failing_hosts.most_common(HOSTS_KEPT)),
        "files": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in written],
    }
