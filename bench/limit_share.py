"""How much of the bare limit a whole run reaches, by processor time, which the server on the same cores has no part in.

The bare limit is the same images fetched by bare sockets, and then the same transform over bodies in memory, in batches
of 64, from several threads: no tar, no Python per image, no start.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from bench.bare_download import bare_download_s
from bench.bench import Bench
from bench.corpus import LARGE, build_corpus
from bench.job import Job, count_output, write_list
from bench.machine import describe_machine, now, our_versions
from bench.measure import measure
from bench.origin import serve
from bench.ours import our_command, write_spec
from bench.rate import steady_rate
from bench.results import Repeat, Result

_BATCH: Final = 64
_TARGET: Final = 0.85


@dataclass(frozen=True)
class Rate:
    """Images a second, and CPU seconds per 1,000 of them, of which `download_s_per_1000` by bare sockets."""

    images_per_s: float
    cpu_s_per_1000: float
    download_s_per_1000: float = 0.0


def measure_limit_share(bench: Bench) -> list[Result]:
    """Alternate what is bare and a whole run; return the ratio of what they cost."""
    corpus = build_corpus(LARGE, bench.cache)
    bodies = [(corpus.folder / image.name).read_bytes() for image in corpus.pictures]
    rows = 2_000 if bench.quick else 10_000
    repeats = bench.repeats or (1 if bench.quick else 3)
    machine, date = describe_machine(), now()
    bare: list[Rate] = []
    whole: list[Rate] = []
    runs: list[Repeat] = []
    output = bench.work / "output" / "limit-share"
    with serve(corpus.folder, bench.work / "nginx") as origin:
        urls = write_list(bench.work / "limit-share.parquet", origin.http_url, corpus, rows)
        command = our_command(write_spec(bench.work / "limit-share.toml", Job(urls, output, 1_000)))
        for _ in range(repeats):
            names = [corpus.pictures[row % len(corpus.pictures)].name for row in range(rows)]
            download_s = bare_download_s(origin.http_url, names) / rows * 1000
            bare.append(_bare_limit(bodies, machine["cores"], rows, download_s))
            shutil.rmtree(output, ignore_errors=True)
            measurement = measure(command, bench.work / "limit-share.log", timeout_s=300)
            run = Repeat("turbo-fetch", measurement, count_output(output))
            if run.counted.images_ok != rows:
                raise ValueError(
                    f"limit-share: {run.counted.images_ok} of {rows} images; see limit-share.log"
                )
            whole.append(Rate(_steady_rate(output), measurement.cpu_s / rows * 1000))
            runs.append(run)
            print(f"bare {bare[-1]}\nwhole {whole[-1]}", flush=True)
    bare_rate, bare_cpu, download_cpu = _medians(bare)
    whole_rate, whole_cpu, _ = _medians(whole)
    return [
        Result(
            row="limit-share",
            measure="CPU-seconds of the bare download and transform, divided by a whole run's",
            value=bare_cpu / whole_cpu,
            unit="share",
            relation=">=",
            target=_TARGET,
            date=date,
            command=bench.command,
            machine=machine,
            versions={"ours": our_versions()},
            parameters={"pictures": rows, "batch": _BATCH, "threads": machine["cores"]},
            programs={"turbo-fetch": " ".join(command)},
            figures={
                "bare": {
                    "images_per_s": bare_rate,
                    "cpu_s_per_1000": bare_cpu,
                    "download_s_per_1000": download_cpu,
                },
                "turbo-fetch": {"images_per_s": whole_rate, "cpu_s_per_1000": whole_cpu},
                "rate_share": whole_rate / bare_rate,
            },
            repeats=[run.as_json() for run in runs],
        )
    ]


def _medians(rates: list[Rate]) -> tuple[float, float, float]:
    return (
        statistics.median(rate.images_per_s for rate in rates),
        statistics.median(rate.cpu_s_per_1000 for rate in rates),
        statistics.median(rate.download_s_per_1000 for rate in rates),
    )


def _bare_limit(bodies: list[bytes], cores: int, pictures: int, download_s_per_1000: float) -> Rate:
    # Not needed by the other rows, which measure the program from outside.
    from turbo_fetch.outcomes import Outcome
    from turbo_fetch.shard.transform import Transform
    from turbo_fetch.spec import ImageSpec

    transform = Transform(ImageSpec(size=256, mode="border", quality=95), threads=cores)
    transform.run(bodies[:_BATCH])

    def run(batch: list[bytes]) -> int:
        outcomes = transform.run(batch).column("outcome")
        return int(pc.sum(pc.equal(outcomes, Outcome.SUCCESS.number)).as_py())

    batches = itertools.islice(_batches(bodies), -(-pictures // _BATCH))
    started_s, cpu_started_s = time.monotonic(), time.process_time()
    # One thread more than cores: while one waits for its last images another has begun.
    with ThreadPoolExecutor(cores + 1) as pool:
        done = sum(pool.map(run, batches))
    wall_s, cpu_s = time.monotonic() - started_s, time.process_time() - cpu_started_s
    if done < pictures:
        raise ValueError(f"the bare transform made {done} of {pictures} images")
    return Rate(done / wall_s, cpu_s / done * 1000 + download_s_per_1000, download_s_per_1000)


def _batches(bodies: list[bytes]) -> Iterator[list[bytes]]:
    endless = itertools.cycle(bodies)
    while True:
        yield list(itertools.islice(endless, _BATCH))


def _steady_rate(output: Path) -> float:
    """Return images a second in the middle of a run, from its ledgers."""
    files = sorted(str(path) for path in output.glob(".turbo-fetch/ledger/*.ledger"))
    table = ds.dataset(files, format="parquet").to_table(columns=["started", "total_ms"])
    started = table.column("started").cast(pa.int64()).to_numpy()
    ended_s = started / 1e6 + table.column("total_ms").to_numpy() / 1e3
    return steady_rate(ended_s.tolist())
