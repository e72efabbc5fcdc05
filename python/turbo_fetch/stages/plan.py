"""`plan`: what a run would do, told without a request to any host of the list.

Rows are counted where the list says how many there are, and estimated by bytes elsewhere; hosts come from a sample, the
time from :mod:`turbo_fetch.stages.time_estimate`.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from turbo_fetch.dataset.formats import check_packages, format_of
from turbo_fetch.dataset.keys import check_key_column
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import SpecError
from turbo_fetch.plan.reader import ListReader
from turbo_fetch.plan.sharder import Plan
from turbo_fetch.progress.summary import counted, human_bytes, human_time
from turbo_fetch.runners.cpu_allocation import available_cores, worker_count
from turbo_fetch.score.check import check_output_columns
from turbo_fetch.shard.routes import Router
from turbo_fetch.spec import FetchSpec, ImageSpec, OutputSpec, Spec
from turbo_fetch.stages.time_estimate import (
    IMAGE_TIMES,
    IN_FLIGHT,
    REQUEST_S,
    measure_machine,
    tightest,
    time_limits,
)
from turbo_fetch.storage.disk import free_bytes

SAMPLE_ROWS: Final = 100_000
SAMPLED_FILES: Final = 50
TOP_HOSTS: Final = 10

SUCCESS_SHARE: Final = 0.85
BODY_BYTES: Final = 150_000
BYTES_PER_PIXEL: Final = {"jpg": 0.4, "webp": 0.25, "png": 2.0}


@dataclass(slots=True)
class Planned:
    """What a run would do."""

    path: str
    format: str
    files: int
    rows: int = 0
    rows_are_estimated: bool = False
    shards: int = 0
    sample_rows: int = 0
    unusable: int = 0
    """Rows of the sample without a usable URL."""
    requested: int = 0
    """Rows of the sample that are requested from hosts; others are read from sources."""
    domains: int = 0
    """Registrable domains in the sample."""
    top_domains: dict[str, float] = field(default_factory=dict)
    """The share of the sample's rows of the most frequent ones."""
    least_s: float = 0.0
    most_s: float = 0.0
    limited_by: str = ""
    download_bytes: int = 0
    dataset_bytes: int = 0
    free_bytes: dict[str, int] = field(default_factory=dict)
    """Bytes that are free, by folder: that of the dataset, if it is on this machine, and that of work in progress."""
    assumptions: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return it as lines for a person."""
        about = "about " if self.rows_are_estimated else ""
        top = ", ".join(f"{name} {share:.1%}" for name, share in self.top_domains.items())
        lines = [
            f"list      {about}{counted(self.rows, 'row')} in {counted(self.files, 'file')}",
            f"shards    {about}{self.shards:,} in the format {self.format}, to {self.path}",
            f"hosts     {counted(self.domains, 'domain')} in a sample of {counted(self.sample_rows, 'row')}, "
            f"{self.unusable:,} rows without a usable URL",
            *self._sources(),
            f"largest   {top or 'none'}",
            f"time      {human_time(self.least_s)} to {human_time(self.most_s)}, limited by {self.limited_by}"
            if self.rows
            else "time      none: the list has no rows",
            f"size      about {human_bytes(self.download_bytes)} to download, "
            f"{human_bytes(self.dataset_bytes)} on disk, "
            f"{human_bytes(self.dataset_bytes // max(1, self.shards))} a shard",
            *(f"space     {human_bytes(free)} free for {place}" for place, free in self.free_bytes.items()),
            *self._shortages(),
            "assumed   " + "; ".join(self.assumptions),
            "no request was sent to any host of the list",
        ]
        return "\n".join(lines)

    def _sources(self) -> list[str]:
        read = self.sample_rows - self.requested - self.unusable
        return (
            [f"sources   {read:,} rows of the sample are read from files, stores or columns"] if read else []
        )

    def _shortages(self) -> list[str]:
        free = self.free_bytes.get(self.path)
        if free is None or free >= self.dataset_bytes:
            return []
        return [
            f"shortage  the dataset needs about {human_bytes(self.dataset_bytes)}, and {human_bytes(free)} are free: "
            "choose another fetch.output.path, a smaller fetch.image.size or fewer rows"
        ]


def plan_run(spec: Spec) -> Planned:
    """Return what a run of the spec would do. Raises what a run raises before its first request."""
    fetch = spec.fetch
    if fetch is None:
        raise SpecError("the spec has no table [fetch]; expected one with [fetch.input] and [fetch.output]")
    check_packages(fetch.output.format)
    plan = Plan.of(fetch.input, fetch.output.samples_per_shard)
    check_output_columns(fetch, plan.schema())
    check_key_column(plan.schema(), fetch.output)
    planned = Planned(fetch.output.path, fetch.output.format, len(plan.files))
    domains = _survey(plan, fetch, planned)
    planned.domains = len(domains)
    usable = max(1, planned.sample_rows)
    planned.top_domains = {name: count / usable for name, count in domains.most_common(TOP_HOSTS)}
    cores = available_cores()
    speed = measure_machine(fetch.image, cores)
    workers = worker_count(spec.engine, cores)
    if planned.rows:
        limits = time_limits(fetch, planned.rows, planned.top_domains, workers, cores, speed)
        limits[IN_FLIGHT] *= planned.requested / usable
        planned.limited_by, (planned.least_s, planned.most_s) = tightest(limits)
    kept = planned.rows * SUCCESS_SHARE
    planned.download_bytes = round(kept * BODY_BYTES * planned.requested / usable)
    if format_of(fetch.output.format).has_images:
        planned.dataset_bytes = round(kept * picture_bytes(fetch.image))
    planned.free_bytes = _free_bytes(fetch.output)
    planned.assumptions = [
        f"{REQUEST_S.least:g} to {REQUEST_S.most:g} s per request",
        f"{1 / speed.image_s:,.0f} photos of 0.8 megapixels per second, as measured on this machine just now, "
        f"{IMAGE_TIMES.least:g} to {IMAGE_TIMES.most:g} times that work per image",
        "a connection that is fast enough",
        f"{SUCCESS_SHARE:.0%} of the rows succeed",
        f"{human_bytes(BODY_BYTES)} per download",
        f"{human_bytes(picture_bytes(fetch.image))} per image",
        "domains are distributed as in the sample, the start of the files of the list",
    ]
    if fetch.score is not None:
        planned.assumptions.append("fetch.score.function keeps up, and drops nothing")
    return planned


def _free_bytes(output: OutputSpec) -> dict[str, int]:
    storage = open_place(output.path, output.spool)
    folders = {output.path: storage.path, str(storage.work): storage.work}
    if storage.path is not None and storage.work.is_relative_to(storage.path):
        del folders[str(storage.work)]
    return {name: free_bytes(folder) for name, folder in folders.items() if folder is not None}


def picture_bytes(image: ImageSpec) -> float:
    """Return about how many bytes an image of the dataset has, in all its sizes."""
    if image.encode == "original" or image.mode == "no":
        return float(BODY_BYTES)
    boxes = [image.box, *image.more_boxes.values()]
    return sum(width * height for width, height in boxes) * BYTES_PER_PIXEL[image.encode]


def _survey(plan: Plan, fetch: FetchSpec, planned: Planned) -> Counter[str]:
    """Count rows and shards into `planned`, and return the domains of a sample."""
    files = plan.files
    domains: Counter[str] = Counter()
    sampled = set(range(0, len(files), math.ceil(len(files) / SAMPLED_FILES)))
    share = math.ceil(SAMPLE_ROWS / max(1, len(sampled)))
    router = Router(fetch, None)
    known_rows = known_bytes = 0
    rows_of: dict[int, int] = {}
    for number, source in enumerate(files):
        if number not in sampled and (source.format != "parquet" or plan.is_selective):
            continue
        with plan.reading(number) as reader:
            if number in sampled:
                _sample(reader, share, router, domains, planned)
            rows_of[number] = _rows(reader, planned)
        known_rows, known_bytes = known_rows + rows_of[number], known_bytes + (source.size or 0)
    left = sys.maxsize if fetch.input.rows is None else fetch.input.rows
    for number, source in enumerate(files):
        guess = round((source.size or 0) * known_rows / max(1, known_bytes))
        rows = min(rows_of.get(number, guess), left)
        left -= rows
        planned.rows += rows
        planned.shards += math.ceil(rows / fetch.output.samples_per_shard)
    planned.rows_are_estimated |= len(rows_of) < len(files)
    planned.rows_are_estimated &= left > 0
    return domains


def _sample(reader: ListReader, most: int, router: Router, domains: Counter[str], planned: Planned) -> None:
    seen = 0
    for batch in reader:
        routes = router.routes(range(batch.num_rows), batch, {}, {})
        domains.update(request.domain for request in routes.requests)
        planned.requested += len(routes.requests)
        planned.unusable += len(routes.ended)
        seen += batch.num_rows
        if seen >= most:
            break
    planned.sample_rows += seen


def _rows(reader: ListReader, planned: Planned) -> int:
    """Return how many rows a file has: as it says, as were read, or by the share of its bytes that were read."""
    if reader.total_rows is not None:
        return reader.total_rows
    if reader.fraction_read >= 1.0 or reader.fraction_read == 0.0:
        return reader.rows_read
    planned.rows_are_estimated = True
    return round(reader.rows_read / reader.fraction_read)
