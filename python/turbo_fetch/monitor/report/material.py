"""What a report is made of: counts from commit records, curves from the metrics, images from the shards."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from turbo_fetch.arrow.python_values import python_rows
from turbo_fetch.dataset import names
from turbo_fetch.dataset.formats.images import image_type
from turbo_fetch.dataset.manifest import read_manifest
from turbo_fetch.dataset.reader import StoredDataset, StoredShard
from turbo_fetch.errors import TurboFetchError
from turbo_fetch.monitor import records
from turbo_fetch.outcomes import Outcome
from turbo_fetch.progress.size_histogram import SizeHistogram
from turbo_fetch.progress.summary import Summary
from turbo_fetch.redaction import redact
from turbo_fetch.shard.transform import Transform
from turbo_fetch.spec import ImageSpec
from turbo_fetch.storage import Storage

SHARDS_LOOKED_INTO: Final = 2
LEDGERS_LOOKED_INTO: Final = 8
SAMPLES_SHOWN: Final = 24
ROWS_AT_ONCE: Final = 64
BATCHES_LOOKED_INTO: Final = 4
"""Most shards have enough images in the first."""
LARGEST_AS_IS: Final = 40_000
"""Bytes up to which an image is shown as it is stored, which saves decoding it."""
FAILURES_PER_OUTCOME: Final = 4
FAILURES_SHOWN: Final = 40
BROWSER_TYPES: Final = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
"""Types of the formats that every browser shows."""
THUMBNAIL: Final = ImageSpec(
    size=208, mode="keep_ratio_largest", only_if_bigger=True, quality=82, digest="none", exif=False
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A sample of the grid: an image as a data URL, or None if it cannot be drawn."""

    key: str
    url: str
    caption: str
    size: str
    picture: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A row that failed, as the ledger has it."""

    key: str
    url: str
    outcome: str
    detail: str
    attempts: int


@dataclass(slots=True)
class Material:
    """All that a report shows of a dataset."""

    summary: Summary
    shapes: SizeHistogram = field(default_factory=SizeHistogram)
    hosts: Counter[str] = field(default_factory=Counter)
    body_bytes: int = 0
    runs: list[list[records.Line]] = field(default_factory=list)
    """The lines of every run into the dataset, in order."""
    samples: list[Shown] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    spec: str = ""
    """The spec as the latest run had it, secrets masked."""

    @property
    def latest(self) -> list[records.Line]:
        """The progress of the latest run that did something."""
        return next(reversed(self._working_runs()), [])

    @property
    def progress(self) -> list[records.Line]:
        """The progress of all runs that did something, end to end: time and counts go on from the run before."""
        joined: list[records.Line] = []
        for run in self._working_runs():
            before = joined[-1] if joined else None
            joined += run if before is None else [_after(before, line) for line in run]
        return joined

    def _working_runs(self) -> list[list[records.Line]]:
        runs = [[line for line in run if line["kind"] == "progress"] for run in self.runs]
        return [run for run in runs if run and run[-1]["rows"]]


def _after(before: records.Line, line: records.Line) -> records.Line:
    counts = {name: before[name] + line[name] for name in ("elapsed_s", "rows", "bytes")}
    seconds = [first + second for first, second in zip(before["seconds"], line["seconds"], strict=True)]
    return {**line, **counts, "seconds": seconds}


def gather(storage: Storage) -> Material:
    """Return the material of the dataset at `storage`.

    Raises InputError if there is none, OutputError or DatasetError if it cannot be read.
    """
    dataset = StoredDataset.open(storage)
    material = Material(Summary(storage.url))
    seen: set[str] = set()
    failing: set[int] = set()
    for record in read_manifest(storage):
        new = record["outcomes"].keys() - seen - {Outcome.SUCCESS.label}
        if new and len(failing) < LEDGERS_LOOKED_INTO:
            seen |= new
            failing.add(record["shard"])
        material.summary.add_shard(record)
        material.body_bytes += record.get("body_bytes", 0)
        # A record of an earlier version has neither.
        material.hosts.update(record.get("hosts", {}))
        if "shapes" in record:
            material.shapes.add_record(record["shapes"])
    material.runs = list(_runs(_read(storage, names.METRICS)))
    for shard in _spread(dataset.shards, SHARDS_LOOKED_INTO):
        material.samples += _samples(dataset, shard)
    for shard in dataset.shards:
        if shard.number in failing:
            material.failures += _failures(dataset, shard)
    material.failures = _varied(material.failures)
    material.spec = redact(_read(storage, names.SPEC).decode(errors="replace"))
    return material


def _read(storage: Storage, name: str) -> bytes:
    """Return a file of the dataset, or, while it is not published yet, of the work folder; nothing without one."""
    try:
        return storage.read_bytes(name)
    except FileNotFoundError:
        local = storage.work / name
        return local.read_bytes() if local.exists() else b""


def _runs(content: bytes) -> Iterator[list[records.Line]]:
    run: list[records.Line] = []
    for line in records.parse(content):
        if line["kind"] == "start" and run:
            yield run
            run = []
        run.append(line)
    if run:
        yield run


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return up to `count` items, evenly spread, the first one included."""
    if len(items) <= count:
        return list(items)
    return [items[number * (len(items) - 1) // max(1, count - 1)] for number in range(count)]


def _samples(dataset: StoredDataset, shard: StoredShard) -> list[Shown]:
    share = SAMPLES_SHOWN // min(SHARDS_LOOKED_INTO, len(dataset.shards))
    shown: list[Shown] = []
    try:
        for batch in islice(dataset.batches(shard, ROWS_AT_ONCE), BATCHES_LOOKED_INTO):
            with_image = [row for row, valid in enumerate(batch.image.is_valid().to_pylist()) if valid]
            rows = pa.array(_spread(with_image, share - len(shown)), pa.int64())
            metadata = python_rows(batch.metadata.take(rows))
            pictures = thumbnails(batch.image.take(rows).to_pylist())
            shown += [_shown(row, picture) for row, picture in zip(metadata, pictures, strict=True)]
            if len(shown) == share:
                break
    except TurboFetchError:
        # A damaged shard is for `verify` to report.
        return []
    return shown


def thumbnails(pictures: Sequence[bytes]) -> list[bytes | None]:
    """Return images that a browser shows, small in bytes; None for those that cannot be decoded."""
    shown: list[bytes | None] = [
        picture if len(picture) <= LARGEST_AS_IS and image_type(picture) in BROWSER_TYPES else None
        for picture in pictures
    ]
    large = [number for number, picture in enumerate(shown) if picture is None]
    if large:
        small = Transform(THUMBNAIL, 1).run([pictures[number] for number in large])
        for number, picture in zip(large, small.column("image").to_pylist(), strict=True):
            shown[number] = picture
    return shown


def data_url(picture: bytes) -> str:
    """Return an image, in a format that browsers show, as the address of itself."""
    kind = BROWSER_TYPES[image_type(picture) or ""]
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def _shown(row: dict[str, Any], picture: bytes | None) -> Shown:
    size = f"{row['original_width']} x {row['original_height']}"
    address = None if picture is None else data_url(picture)
    return Shown(row["key"], redact(str(row["url"])), str(row.get("caption") or ""), size, address)


def _failures(dataset: StoredDataset, shard: StoredShard) -> list[Failed]:
    try:
        ledger = dataset.ledger(shard)
    except (TurboFetchError, FileNotFoundError):
        return []
    failed = ledger.filter(pc.not_equal(ledger.column("outcome"), Outcome.SUCCESS.label))
    wanted = failed.select(["key", "url", "outcome", "detail", "attempts"]).slice(0, 10_000)
    return [
        Failed(row["key"], redact(row["url"] or ""), row["outcome"], row["detail"] or "", row["attempts"])
        for row in wanted.to_pylist()
    ]


def _varied(failures: list[Failed]) -> list[Failed]:
    """Return a few failures of every outcome, different reasons first, the frequent outcomes first."""
    by_outcome: dict[str, list[Failed]] = defaultdict(list)
    for failure in failures:
        by_outcome[failure.outcome].append(failure)
    chosen: list[Failed] = []
    for group in sorted(by_outcome.values(), key=len, reverse=True):
        by_detail = {failure.detail: failure for failure in reversed(group)}
        firsts = list(reversed(by_detail.values()))
        rest = [failure for failure in group if failure is not by_detail[failure.detail]]
        chosen += [*firsts, *rest][:FAILURES_PER_OUTCOME]
    return chosen[:FAILURES_SHOWN]
