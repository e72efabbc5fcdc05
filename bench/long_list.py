"""A list of ten million rows: how soon the first request comes, and how much memory the run takes."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.bench import Bench, Program
from bench.corpus import LARGE, Corpus, build_corpus
from bench.faulty_origin import FaultyOrigin, serve_faulty
from bench.job import Job, count_output, write_list
from bench.machine import Machine, describe_machine, now, our_versions
from bench.measure import Measurement, measure
from bench.origin import serve
from bench.ours import our_command, write_spec
from bench.peers import ensure_peer, peer_command, peer_environment, peer_versions
from bench.results import Repeat, Result

# The port is part of the URLs, and the list is too long to be written anew each time.
_PORT: Final = 18_471
_ROWS: Final = 10_000_000
_QUICK_ROWS: Final = 1_000_000
# What pyarrow makes of a table when nobody says otherwise.
_ROWS_PER_GROUP: Final = 1_048_576
_FIRST_REQUEST_TARGET_S: Final = 0.5
_MEMORY_TARGET_MB: Final = 500.0
_TIMEOUT_S: Final = 400.0
_MEMORY_RUN_S: Final = 40.0


@dataclass(frozen=True)
class _Scene:
    """A long list and the server that its URLs name."""

    corpus: Corpus
    urls: Path
    rows: int
    origin: FaultyOrigin
    machine: Machine
    date: str


def measure_first_request(bench: Bench) -> list[Result]:
    """Return the seconds from process start to the first request, interrupting each run there."""
    repeats = bench.repeats or (1 if bench.quick else 3)
    delays: dict[str, list[float]] = {program: [] for program in bench.programs}
    commands: dict[str, str] = {}
    runs: list[Repeat] = []
    with _scene(bench) as scene:
        for program in bench.programs:
            # The peer takes minutes, and one run of it shows that.
            for _ in range(repeats if program == "turbo-fetch" else 1):
                command, run, delay_s = _until_first_request(program, scene, bench)
                commands[program] = command
                delays[program].append(delay_s)
                runs.append(run)
                print(f"{program}: first request after {delay_s:.2f} s", flush=True)
    figures: dict[str, Any] = {
        program: {
            "first_request_s": statistics.median(seen),
            "peak_pss_mb": max(run.measurement.peak_pss_bytes for run in runs if run.program == program)
            / 1e6,
        }
        for program, seen in delays.items()
    }
    return [
        Result(
            row="first-request",
            measure="process start to first request",
            value=statistics.median(delays.get("turbo-fetch") or [float("nan")]),
            unit="s",
            relation="<=",
            target=_FIRST_REQUEST_TARGET_S,
            date=scene.date,
            command=bench.command,
            machine=scene.machine,
            versions={"ours": our_versions(), "peer": peer_versions(ensure_peer(bench.cache))},
            parameters={"rows": scene.rows, "rows_per_group": _ROWS_PER_GROUP, "delays_s": delays},
            programs=commands,
            figures=figures,
            repeats=[run.as_json() for run in runs],
        )
    ]


def measure_memory(bench: Bench) -> list[Result]:
    """Return the peak memory of two runs: 10,000 rows to the end, and the long list for a while."""
    output = bench.work / "output" / "memory"
    measurements: dict[str, Measurement] = {}
    runs: list[Repeat] = []
    with _scene(bench) as scene, serve(scene.corpus.folder, bench.work / "nginx") as origin:
        rows = 1_000 if bench.quick else 10_000
        short = write_list(bench.work / "memory.parquet", origin.http_url, scene.corpus, rows)
        for name, urls, timeout_s in (("short list", short, 300.0), ("long list", scene.urls, _MEMORY_RUN_S)):
            shutil.rmtree(output, ignore_errors=True)
            command = our_command(write_spec(bench.work / "memory.toml", Job(urls, output, 10_000)))
            measurements[name] = measure(command, bench.work / "memory.log", timeout_s)
            runs.append(Repeat("turbo-fetch", measurements[name], count_output(output)))
            print(f"{name}: {measurements[name].peak_pss_bytes / 1e6:.0f} MB", flush=True)
        if measurements["short list"].exit_code != 0 or not measurements["long list"].timed_out:
            raise ValueError("memory: a run did not go as planned; see memory.log")
    return [
        Result(
            row="memory",
            measure="peak memory of all processes (PSS)",
            value=max(measurement.peak_pss_bytes for measurement in measurements.values()) / 1e6,
            unit="MB",
            relation="<=",
            target=_MEMORY_TARGET_MB,
            date=scene.date,
            command=bench.command,
            machine=scene.machine,
            versions={"ours": our_versions()},
            parameters={"rows": {"short list": rows, "long list": scene.rows}, "samples_per_shard": 10_000},
            programs={"turbo-fetch": " ".join(command)},
            figures={
                "turbo-fetch": {
                    name: {
                        "peak_pss_mb": measurement.peak_pss_bytes / 1e6,
                        "peak_rss_mb": measurement.peak_rss_bytes / 1e6,
                        "processes": measurement.peak_processes,
                    }
                    for name, measurement in measurements.items()
                }
            },
            repeats=[run.as_json() for run in runs],
        )
    ]


@contextmanager
def _scene(bench: Bench) -> Iterator[_Scene]:
    corpus = build_corpus(LARGE, bench.cache)
    rows = _QUICK_ROWS if bench.quick else _ROWS
    urls = write_long_list(bench.work / f"list-{rows}-{_PORT}.parquet", corpus, rows)
    with serve_faulty(corpus.folder, latency_ms=0, port=_PORT) as origin:
        yield _Scene(corpus, urls, rows, origin, describe_machine(), now())


def write_long_list(path: Path, corpus: Corpus, rows: int, port: int = _PORT) -> Path:
    """Write `rows` distinct URLs of the server on a fixed port, with captions, unless it is there."""
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    names = pa.array([image.name for image in corpus.pictures])
    titles = pa.array([image.title for image in corpus.pictures])
    widths = pa.array([image.width for image in corpus.pictures], pa.int32())
    heights = pa.array([image.height for image in corpus.pictures], pa.int32())
    schema = pa.schema([("url", "string"), ("caption", "string"), ("width", "int32"), ("height", "int32")])
    with pq.ParquetWriter(partial, schema) as writer:
        for start in range(0, rows, _ROWS_PER_GROUP):
            numbers = pa.array(range(start, min(rows, start + _ROWS_PER_GROUP)), pa.int64())
            taken = pc.subtract(numbers, pc.multiply(pc.divide(numbers, len(names)), len(names)))
            text = numbers.cast(pa.string())
            site = f"http://127.0.0.1:{port}/"
            url = pc.binary_join_element_wise(site, pc.take(names, taken), "?n=", text, "")
            caption = pc.binary_join_element_wise(pc.take(titles, taken), text, ", crop ")
            columns = [url, caption, pc.take(widths, taken), pc.take(heights, taken)]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=_ROWS_PER_GROUP)
    return partial.rename(path)


def _until_first_request(program: Program, scene: _Scene, bench: Bench) -> tuple[str, Repeat, float]:
    output = bench.work / "output" / "first-request"
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    job = Job(scene.urls, output, 10_000)
    environment: dict[str, str] = {}
    if program == "turbo-fetch":
        command = our_command(write_spec(bench.work / "first-request.toml", job))
    else:
        command = peer_command(ensure_peer(bench.cache), job)
        environment = peer_environment(job)
    scene.origin.reset()
    measurement = measure(
        command,
        bench.work / f"first-request-{program}.log",
        _TIMEOUT_S,
        environment,
        stop_when=lambda: bool(scene.origin.marks().arrivals_monotonic_s),
    )
    arrivals = scene.origin.marks().arrivals_monotonic_s
    if not arrivals:
        raise ValueError(f"first-request: {program} made no request in {measurement.wall_s:.0f} s")
    delay_s = arrivals[0] - measurement.started_monotonic_s
    return " ".join(command), Repeat(program, measurement, count_output(output)), delay_s
