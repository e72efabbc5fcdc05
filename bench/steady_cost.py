"""What a row costs at the start, in the middle and at the end of a long list: CPU time and memory, tenth by tenth.

Images are tiny and kept as they came, and their origin answers after a latency: what is left is the engine, which has
to cost the same for the last row as for the first. The origin says when rows were asked for, the kernel what was spent
by then.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from bench.bench import Bench
from bench.corpus import SMALL, build_corpus
from bench.faulty_origin import serve_faulty
from bench.job import Job, count_output
from bench.latency import tiny_corpus
from bench.long_list import write_long_list
from bench.machine import describe_machine, now, our_versions
from bench.measure import Sample, measure
from bench.ours import our_command, write_spec
from bench.results import Repeat, Result

_ROWS: Final = 1_000_000
_QUICK_ROWS: Final = 50_000
_PORT: Final = 18_472
_LATENCY_MS: Final = 100
_CONCURRENCY: Final = 512
_PARTS: Final = 10
_COMPARED: Final = (0, _PARTS // 2, _PARTS - 1)
"""The first, a middle and the last tenth."""
_TARGET: Final = 1.2
_TIMEOUT_S: Final = 1_500.0


@dataclass(frozen=True)
class Part:
    """A tenth of the rows, in the order in which they were asked for."""

    cpu_ms_per_row: float
    rows_per_core_s: float
    """Rows that a second of one core does."""
    rows_per_s: float
    memory_mb: float
    """PSS of all processes, at most."""


def measure_steady_cost(bench: Bench) -> list[Result]:
    """Return the cost of the dearest of three tenths of a long list, divided by that of the cheapest."""
    rows = _QUICK_ROWS if bench.quick else _ROWS
    corpus = tiny_corpus(build_corpus(SMALL, bench.cache), bench.work / "tiny-few")
    urls = write_long_list(bench.work / f"list-{rows}-{_PORT}.parquet", corpus, rows, _PORT)
    output = bench.work / "output" / "steady-cost"
    shutil.rmtree(output, ignore_errors=True)
    job = Job(urls, output, samples_per_shard=10_000, reencode=False)
    command = our_command(
        write_spec(bench.work / "steady-cost.toml", job, {"http": {"concurrency": _CONCURRENCY}})
    )
    machine, date = describe_machine(), now()
    samples: list[Sample] = []
    with serve_faulty(corpus.folder, _LATENCY_MS, port=_PORT) as origin:
        run = measure(command, bench.work / "steady-cost.log", _TIMEOUT_S, samples=samples)
        arrivals_s = np.sort(np.asarray(origin.marks().arrivals_monotonic_s))
    counted = count_output(output)
    if run.exit_code != 0 or counted.images_ok != rows:
        raise ValueError(f"steady-cost: ended with {run.exit_code} and {counted.images_ok} of {rows} images")
    found = parts(arrivals_s, samples)
    for part in found:
        print(part, flush=True)
    costs = [found[number].cpu_ms_per_row for number in _COMPARED]
    whole: dict[str, Any] = {
        "cpu_ms_per_row": run.cpu_s / rows * 1000,
        "rows_per_core_s": rows / run.cpu_s,
        "rows_per_s": rows / run.wall_s,
        "peak_pss_mb": run.peak_pss_bytes / 1e6,
    }
    return [
        Result(
            row="steady-cost",
            measure="CPU per row of the first, a middle and the last tenth of a million rows, most over least",
            value=max(costs) / min(costs),
            unit="",
            relation="<=",
            target=_TARGET,
            date=date,
            command=bench.command,
            machine=machine,
            versions={"ours": our_versions()},
            parameters={
                "rows": rows,
                "latency_ms": _LATENCY_MS,
                "concurrency": _CONCURRENCY,
                "image": "32 x 32 JPEG, kept as it came",
            },
            programs={"turbo-fetch": " ".join(command)},
            figures={"turbo-fetch": {**whole, "parts": [asdict(part) for part in found]}},
            repeats=[Repeat("turbo-fetch", run, counted).as_json()],
        )
    ]


def parts(arrivals_s: np.ndarray[Any, np.dtype[np.float64]], samples: list[Sample]) -> list[Part]:
    """Return what each tenth of the rows cost, from when they were asked for, in order, and what was spent by when."""
    edges = [round(number * (len(arrivals_s) - 1) / _PARTS) for number in range(_PARTS + 1)]
    times_s = arrivals_s[edges]
    spent_s = np.interp(times_s, [sample.time_s for sample in samples], [sample.cpu_s for sample in samples])
    found = []
    for number in range(_PARTS):
        count = edges[number + 1] - edges[number]
        cpu_s = float(spent_s[number + 1] - spent_s[number])
        within = [
            sample.pss_bytes
            for sample in samples
            if times_s[number] <= sample.time_s <= times_s[number + 1] and sample.pss_bytes
        ]
        found.append(
            Part(
                cpu_ms_per_row=cpu_s / count * 1000,
                rows_per_core_s=count / cpu_s,
                rows_per_s=count / float(times_s[number + 1] - times_s[number]),
                memory_mb=max(within, default=0) / 1e6,
            )
        )
    return found
