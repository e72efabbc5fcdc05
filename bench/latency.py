"""Requests a second from an origin that answers after 200 ms, against what the concurrency allows."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from bench.bench import Bench
from bench.corpus import LARGE, Corpus, Picture, build_corpus
from bench.faulty_origin import FaultyOrigin, serve_faulty
from bench.job import Job, count_output, write_list
from bench.machine import describe_machine, now, our_versions
from bench.measure import measure
from bench.ours import our_command, write_spec
from bench.rate import steady_rate
from bench.results import Repeat, Result

_LATENCY_MS: Final = 200
_CONCURRENCIES: Final = (64, 256, 512, 768, 1024)
_STEADY_S: Final = 12
_TARGET: Final = 0.95
_FULL_CORE: Final = 0.9
_TINY_SIDE: Final = 32


@dataclass(frozen=True)
class Point:
    """One concurrency: the rate reached, its share of concurrency ÷ latency, and how busy the cores were."""

    concurrency: int
    requests_per_s: float
    share: float
    cores_busy: float


def measure_latency(bench: Bench) -> list[Result]:
    """Run with each concurrency; return the worst share among those that leave a core some air."""
    corpus = tiny_corpus(build_corpus(LARGE, bench.cache), bench.work / "tiny")
    machine, date = describe_machine(), now()
    points: list[Point] = []
    runs: list[Repeat] = []
    with serve_faulty(corpus.folder, _LATENCY_MS) as origin:
        for concurrency in _CONCURRENCIES[:2] if bench.quick else _CONCURRENCIES:
            point, run, command = _run(concurrency, corpus, origin, bench)
            print(point, flush=True)
            points.append(point)
            runs.append(run)
    with_air = [point.share for point in points if point.cores_busy < _FULL_CORE]
    return [
        Result(
            row="latency",
            measure="requests a second against concurrency ÷ latency (200 ms), worst below a full core",
            value=min(with_air or [0.0]),
            unit="share",
            relation=">=",
            target=_TARGET,
            date=date,
            command=bench.command,
            machine=machine,
            versions={"ours": our_versions()},
            parameters={"latency_ms": _LATENCY_MS, "steady_s": _STEADY_S, "picture": "32 x 32 JPEG"},
            programs={"turbo-fetch": command},
            figures={"points": [asdict(point) for point in points]},
            repeats=[run.as_json() for run in runs],
        )
    ]


def _run(concurrency: int, corpus: Corpus, origin: FaultyOrigin, bench: Bench) -> tuple[Point, Repeat, str]:
    limit_per_s = concurrency / (_LATENCY_MS / 1000)
    urls = write_list(bench.work / "latency.parquet", origin.url, corpus, int(limit_per_s * _STEADY_S))
    output = bench.work / "output" / "latency"
    shutil.rmtree(output, ignore_errors=True)
    job = Job(urls, output, samples_per_shard=10_000, reencode=False)
    changes: dict[str, dict[str, Any]] = {"http": {"concurrency": concurrency}, "output": {"format": "dummy"}}
    command = our_command(write_spec(bench.work / "latency.toml", job, changes))
    command += ["--set", "engine.workers=1"]
    origin.reset()
    measurement = measure(command, bench.work / "latency.log", timeout_s=120)
    if measurement.exit_code != 0:
        raise ValueError(f"latency: exit code {measurement.exit_code}; see {bench.work / 'latency.log'}")
    rate = steady_rate(origin.marks().arrivals_monotonic_s)
    point = Point(concurrency, rate, rate / limit_per_s, measurement.steady_cores)
    return point, Repeat("turbo-fetch", measurement, count_output(output)), " ".join(command)


def tiny_corpus(corpus: Corpus, folder: Path) -> Corpus:
    """Shrink some images so far that decoding them is no work."""
    pictures: tuple[Picture, ...] = corpus.pictures[:100]
    folder.mkdir(parents=True, exist_ok=True)
    for image in pictures:
        path = folder / image.name
        if not path.is_file():
            partial = path.with_suffix(".partial")
            with Image.open(corpus.folder / image.name) as source:
                source.resize((_TINY_SIDE, _TINY_SIDE)).save(partial, "JPEG", quality=75)
            partial.replace(path)
    return Corpus(folder, pictures)
