"""Measure what rows cost that fail, by kind and by length of the list: `python bench/failing_rows.py [KIND …]`.

A list of a hundred thousand rows, and one of a million, have to cost per row what one of ten thousand does, whatever
its rows fail by; the CPU time of all processes counts, less what a run of a few rows takes. nginx on loopback gives the
answers. `--rows` says which lengths; `--quick` keeps nothing.

The CPU time of the same run differs by a third on a machine that others use too. `--instructions` counts what is
executed instead, under Valgrind's cachegrind: the same to a hundredth, whatever else the machine does, but without the
kernel's share, and forty times slower, so that a million rows are too many.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bench.measure import Measurement, Sample

ROOT = Path(__file__).resolve().parents[1]
LENGTHS: Final = (10_000, 100_000, 1_000_000)
COUNTED_LENGTHS: Final = (10_000, 100_000)
FEW: Final = 100
"""Rows of the run whose cost is that of the start."""
TARGET: Final = 1.2
ROWS_PER_SHARD: Final = 1000
SHARDS: Final = 4
"""Of the shortest list, so that as many workers are busy as with a long one."""
TRIES: Final = {FEW: 9, 10_000: 5, 100_000: 3}
"""How often lists are read that are over before what else the machine does evens out; the median counts."""
ROWS_PER_WRITE: Final = 100_000
TIMEOUT_S: Final = 1800.0
COUNTED_TIMEOUT_S: Final = 3600.0
COUNTING: Final = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--trace-children=yes")
IMAGE_SIDE: Final = 32
TENTHS: Final = 10

ANSWERS: Final = """
        location = /robots.txt { return 200 "user-agent: *\\ndisallow: /disallowed\\n"; }
        location /gone { return 404; }
        location /broken { return 503; }
        location /text { default_type text/html; return 200 "<html>not an image</html>"; }
        location /elsewhere { return 302 ftp://192.0.2.1/a.jpg; }
        location /opted-out { add_header X-Robots-Tag noai; return 200 "an image"; }
"""


@dataclass(frozen=True)
class Kind:
    """A kind of failure: a URL up to the number of the row, if it has one; the outcome; and what the spec says."""

    url: str
    outcome: str
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_numbered: bool = True
    end: str = ""
    """What of the URL comes after the number."""


KINDS: Final = {
    "url": Kind("http://{host}:99999/a.jpg?", "url"),
    "address": Kind("http://10.0.0.1/a.jpg?", "address", {"http": {"allow_private_addresses": False}}),
    "connect": Kind("http://127.0.0.1:{closed}/a.jpg?", "connect"),
    "dead-host": Kind("http://127.", "connect", end=":{closed}/a.jpg"),
    "robots": Kind("{base}/disallowed?", "robots", {"http": {"robots": "respect"}}),
    "opt-out": Kind("{base}/opted-out?", "opt-out"),
    "redirect": Kind("{base}/elsewhere?", "redirect"),
    "http-4xx": Kind("{base}/gone?", "http-4xx"),
    "http-5xx": Kind("{base}/broken?", "http-5xx"),
    "too-large": Kind("{base}/large.jpg?", "too-large", {"http": {"max_body_mb": 0.01}}),
    "duplicate": Kind("{base}/small.jpg", "duplicate", {"duplicates": {"by": ["url"]}}, is_numbered=False),
    "not-an-image": Kind("{base}/text?", "not-an-image"),
    "truncated": Kind("{base}/cut.jpg?", "truncated"),
    "too-small": Kind("{base}/small.jpg?", "too-small", {"image": {"min_side": 64}}),
    "success": Kind("{base}/small.jpg?", "success"),
}


@dataclass(frozen=True)
class Cost:
    """What a list cost: CPU of all processes, and their memory at the worst moment."""

    rows: int
    cpu_s: float
    wall_s: float
    peak_rss_mb: float
    peak_pss_mb: float
    cpu_us_per_row_by_tenth: list[float]
    """Within the run, by when its shards were finished: what grows with the list grows here."""


def main() -> int:
    """Measure the kinds that the arguments name; return 1 if the cost of one depends on the length of its list."""
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    from bench.machine import describe_machine, now, our_versions
    from bench.results import COMMITTED

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--rows", nargs="+", type=int)
    parser.add_argument("--instructions", action="store_true", help="count these, not CPU time")
    parser.add_argument("--quick", action="store_true", help="results not kept")
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    arguments = parser.parse_args()
    path = (arguments.cache / "bench/results" if arguments.quick else COMMITTED) / "failing-rows.json"
    command = shlex.join(["python", "bench/failing_rows.py", *sys.argv[1:]])
    folder = arguments.cache / "bench/failing-rows"
    is_flat = True
    for name in arguments.kinds or KINDS:
        about = {"command": command, "machine": describe_machine(), "date": now(), "versions": our_versions()}
        if arguments.instructions:
            unit, totals = "instructions", count_kind(KINDS[name], arguments.rows or COUNTED_LENGTHS, folder)
            more: dict[str, Any] = {"totals": totals}
        else:
            costs = measure_kind(KINDS[name], arguments.rows or LENGTHS, folder)
            unit, totals = "cpu_us", {cost.rows: cost.cpu_s * 1e6 for cost in costs}
            more = {"runs": [asdict(cost) for cost in costs]}
        per_row = _per_row(totals)
        ratio = max(per_row.values()) / min(per_row.values())
        is_flat &= ratio <= TARGET
        print(
            f"{name}: {', '.join(f'{each:,.0f}' for each in per_row.values())} {unit} per row, {ratio:.2f}",
            flush=True,
        )
        # Another one may count while this one takes the time.
        known = json.loads(path.read_text())["kinds"] if path.is_file() else {}
        known.setdefault(name, {})[unit] = {"per_row": per_row, "most_over_least": ratio, **more, **about}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"target": TARGET, "kinds": known}
        path.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")
    return int(not is_flat)


def _per_row(totals: Mapping[int, float]) -> dict[int, float]:
    """Return what a row costs in a list of each length but the first, whose cost is that of the start."""
    (few, start), *lists = totals.items()
    return {rows: (total - start) / (rows - few) for rows, total in lists}


def measure_kind(kind: Kind, lengths: Sequence[int], folder: Path) -> list[Cost]:
    """Return what lists of a few rows and of these lengths cost; raises ValueError if rows end otherwise."""

    def median(costs: Iterable[Cost]) -> Cost:
        ordered = sorted(costs, key=lambda cost: cost.cpu_s)
        return ordered[len(ordered) // 2]

    with _urls(kind, folder) as url:
        return [
            median(_measured(kind, url, rows, folder) for _ in range(TRIES.get(rows, 1)))
            for rows in (FEW, *lengths)
        ]


def count_kind(kind: Kind, lengths: Sequence[int], folder: Path) -> dict[int, int]:
    """Return how many instructions the same lists take; raises ValueError likewise, and if Valgrind does not say."""
    with _urls(kind, folder) as url:
        return {rows: _counted(kind, url, rows, folder) for rows in (FEW, *lengths)}


@contextmanager
def _urls(kind: Kind, folder: Path) -> Iterator[str]:
    """Serve what the kind asks for; give its URL, in which the number of the row takes the place of `{}`."""
    from bench.origin import free_ports

    with _served(folder) as base:
        closed = free_ports(1)[0]
        host = base.removeprefix("http://").partition(":")[0]
        url, end = (part.format(base=base, host=host, closed=closed) for part in (kind.url, kind.end))
        yield f"{url}{{}}{end}" if kind.is_numbered else url


def _measured(kind: Kind, url: str, rows: int, folder: Path) -> Cost:
    samples: list[Sample] = []
    run = _run(kind, url, rows, folder, TIMEOUT_S, samples)
    tenths = _by_tenth(folder / "output", samples)
    return Cost(rows, run.cpu_s, run.wall_s, run.peak_rss_bytes / 1e6, run.peak_pss_bytes / 1e6, tenths)


def _counted(kind: Kind, url: str, rows: int, folder: Path) -> int:
    logs = folder / "counts"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    # Valgrind replaces malloc, so that Python's own allocator would only be in the way.
    wrapper = [
        "env",
        "PYTHONMALLOC=malloc",
        *COUNTING,
        "--cachegrind-out-file=/dev/null",
        f"--log-file={logs}/%p",
    ]
    _run(kind, url, rows, folder, COUNTED_TIMEOUT_S, wrapper=wrapper)
    counts = [re.search(r"I +refs: +([\d,]+)", log.read_text()) for log in logs.iterdir()]
    if not all(counts):
        raise ValueError(f"a process ended without a count; see {logs}")
    return sum(int(count[1].replace(",", "")) for count in counts if count)


def _run(
    kind: Kind,
    url: str,
    rows: int,
    folder: Path,
    timeout_s: float,
    samples: list[Sample] | None = None,
    wrapper: Sequence[str] = (),
) -> Measurement:
    """Run a list of the URL, below a wrapper maybe, and see how its rows end."""
    from bench.job import Job
    from bench.measure import measure
    from bench.ours import our_command, write_spec

    listed = _write_list(folder / "list.parquet", url, rows)
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    rows_per_shard = min(ROWS_PER_SHARD, rows // SHARDS)
    spec = write_spec(folder / "job.toml", Job(listed, output, rows_per_shard, reencode=False), kind.changes)
    run = measure([*wrapper, *our_command(spec)], folder / "log", timeout_s, samples=samples)
    outcomes = _outcomes(output)
    most = max(outcomes, key=outcomes.__getitem__, default="")
    if run.exit_code not in {0, 1} or run.timed_out or most != kind.outcome or sum(outcomes.values()) != rows:
        raise ValueError(f"ended with {run.exit_code} and {outcomes}; see {folder / 'log'}")
    return run


def _by_tenth(output: Path, samples: list[Sample]) -> list[float]:
    """Return what a row cost in each tenth of a run of more than ten shards, from the end of the first on."""
    import numpy as np

    stats = sorted(
        (json.loads(path.read_text()) for path in output.glob("*_stats.json")),
        key=lambda each: float(each["end_time"]),
    )
    if len(stats) <= TENTHS:
        return []
    monotonic_s = time.monotonic() - time.time()
    edges = [round(number * (len(stats) - 1) / TENTHS) for number in range(TENTHS + 1)]
    spent_s = np.interp(
        [stats[edge]["end_time"] + monotonic_s for edge in edges],
        [sample.time_s for sample in samples],
        [sample.cpu_s for sample in samples],
    )
    rows = np.cumsum([each["count"] for each in stats])[edges]
    return [float(each) for each in np.diff(spent_s) / np.diff(rows) * 1e6]


def _write_list(path: Path, url: str, rows: int) -> Path:
    """Write a list of the URL, in which the number of the row takes the place of `{}`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"url": pa.string(), "caption": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, ROWS_PER_WRITE):
            numbers = range(start, min(rows, start + ROWS_PER_WRITE))
            urls = [url.format(number) for number in numbers]
            writer.write_table(pa.table([urls, [f"row {number}" for number in numbers]], schema))
    return path


def _outcomes(output: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in (output / ".turbo-fetch/manifest").read_text().splitlines():
        for label, count in json.loads(line)["outcomes"].items():
            found[label] = found.get(label, 0) + count
    return found


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    from PIL import Image

    from bench import origin

    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((IMAGE_SIDE, IMAGE_SIDE), 60).save(root / "small.jpg")
    (root / "cut.jpg").write_bytes((root / "small.jpg").read_bytes()[:300])
    (root / "large.jpg").write_bytes(bytes(20_000))
    with origin.serve(root, folder / "nginx", ANSWERS) as served:
        yield served.http_url


if __name__ == "__main__":
    raise SystemExit(main())
