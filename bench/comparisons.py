"""The rows of the speed table that run both programs on the same input, alternating."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from bench.bench import PROGRAMS, Bench, Program
from bench.corpus import LARGE, Corpus, build_corpus
from bench.faulty_origin import serve_faulty
from bench.job import Job, check_images, count_output, write_list
from bench.machine import Machine, describe_machine, now, our_versions
from bench.measure import measure
from bench.origin import serve, trusted_bundle
from bench.ours import ensure_ours, our_command, write_spec
from bench.peers import ensure_peer, peer_command, peer_environment, peer_versions
from bench.results import Repeat, Result

Server = Literal["http", "https", "faulty"]
_LATENCY_MS: Final = 100


@dataclass(frozen=True)
class Comparison:
    """One row: turbo-fetch's cost divided by the peer's must not exceed `target`."""

    row: str
    measure: Literal["cpu", "wall"]
    target: float
    server: Server = "http"
    rows: int = 10_000
    quick_rows: int = 1_000
    samples_per_shard: int = 1_000
    repeats: int = 3
    reencode: bool = True
    timeout_s: int = 10
    retries: int = 0
    run_timeout_s: int = 300
    downscale: str | None = None
    """Our filter, where it is not the default: the peer's is `area`."""
    python: str | None = None
    """Python that both run on, where it is not the one that runs the benchmark."""


COMPARISONS: Final = {
    comparison.row: comparison
    for comparison in (
        Comparison("http", "cpu", 0.28),
        Comparison("http-area", "cpu", 1 / 2, downscale="area"),
        Comparison("https", "cpu", 0.10, server="https", rows=1_500, quick_rows=400, samples_per_shard=250),
        Comparison(
            "https-3.12",
            "cpu",
            0.28,
            server="https",
            rows=1_500,
            quick_rows=400,
            samples_per_shard=250,
            python="3.12",
        ),
        Comparison("original", "cpu", 0.30, reencode=False),
        # Shards of 500, so that both processes of the peer have work.
        Comparison("small", "wall", 1 / 4, rows=1_000, quick_rows=1_000, samples_per_shard=500, repeats=5),
        Comparison("faulty", "wall", 1 / 3, server="faulty", timeout_s=30, retries=2, run_timeout_s=600),
    )
}


def compare(comparison: Comparison, bench: Bench) -> Result:
    """Run both programs in turn and return the row; raises `ValueError` when one did not do the work."""
    corpus = build_corpus(LARGE, bench.cache)
    rows = comparison.quick_rows if bench.quick else comparison.rows
    repeats = bench.repeats or (1 if bench.quick else comparison.repeats)
    machine, date = describe_machine(), now()
    runs: list[Repeat] = []
    commands: dict[str, str] = {}
    with _served(comparison.server, corpus, bench) as (base_url, authorities):
        urls = write_list(bench.work / f"{comparison.row}.parquet", base_url, corpus, rows)
        for repeat in range(repeats):
            # The order alternates too, so that a machine that slows down favours neither.
            for program in bench.programs if repeat % 2 == 0 else bench.programs[::-1]:
                job = _job(comparison, urls, bench.work / "output" / comparison.row / program, authorities)
                commands[program], run = _run(program, comparison, job, bench)
                _check(comparison, run, rows, job)
                print(_line(run, rows), flush=True)
                runs.append(run)
    return _result(comparison, bench, rows, runs, commands, machine, date, corpus)


@contextmanager
def _served(server: Server, corpus: Corpus, bench: Bench) -> Iterator[tuple[str, Path | None]]:
    bench.work.mkdir(parents=True, exist_ok=True)
    if server == "faulty":
        with serve_faulty(corpus.folder, _LATENCY_MS, faults=True) as faulty:
            yield faulty.url, None
        return
    with serve(corpus.folder, bench.work / "nginx") as origin:
        if server == "http":
            yield origin.http_url, None
        else:
            yield origin.https_url, trusted_bundle(origin.certificate, bench.work / "authorities.pem")


def _job(comparison: Comparison, urls: Path, output: Path, authorities: Path | None) -> Job:
    return Job(
        urls=urls,
        output=output,
        samples_per_shard=comparison.samples_per_shard,
        reencode=comparison.reencode,
        timeout_s=comparison.timeout_s,
        retries=comparison.retries,
        authorities=authorities,
    )


def _run(program: Program, comparison: Comparison, job: Job, bench: Bench) -> tuple[str, Repeat]:
    shutil.rmtree(job.output, ignore_errors=True)
    job.output.parent.mkdir(parents=True, exist_ok=True)
    if program == "turbo-fetch":
        changes = {"image": {"downscale": comparison.downscale}} if comparison.downscale else {}
        spec = write_spec(bench.work / f"{comparison.row}.toml", job, changes)
        environment: dict[str, str] = {}
        command = our_command(spec)
        if comparison.python is not None:
            python = ensure_ours(bench.cache, comparison.python)
            command, environment = [str(python), "-m", "turbo_fetch", *command[1:]], {"PYTHONPATH": "python"}
    else:
        command = peer_command(ensure_peer(bench.cache, comparison.python), job)
        environment = peer_environment(job)
    log = bench.work / f"{comparison.row}-{program}.log"
    measurement = measure(command, log, comparison.run_timeout_s, environment)
    return " ".join(command), Repeat(program, measurement, count_output(job.output))


def _check(comparison: Comparison, run: Repeat, rows: int, job: Job) -> None:
    """A program that did less work than asked would look fast."""
    expected = rows if comparison.server != "faulty" else _expected_with_faults(rows)
    problem = ""
    if run.measurement.timed_out or run.measurement.exit_code != 0:
        problem = f"ended with {run.measurement.exit_code} (timed out: {run.measurement.timed_out})"
    elif run.counted.images_ok < expected * 0.999:
        problem = f"made {run.counted.images_ok} of {expected} images: {run.counted.failures}"
    if problem:
        raise ValueError(f"{comparison.row}: {run.program} {problem}; its output is in {job.output}")
    check_images(job.output, 256 if comparison.reencode else None)


def _expected_with_faults(rows: int) -> int:
    return sum(number % 100 not in (13, 37) for number in range(rows))


def _line(run: Repeat, rows: int) -> str:
    cost = run.measurement
    return (
        f"{run.program:12} {cost.wall_s:7.1f} s wall, {cost.cpu_s / rows * 1000:6.2f} CPU-s per 1,000, "
        f"{cost.peak_pss_bytes / 1e6:6.0f} MB PSS, {cost.peak_processes} processes, "
        f"{run.counted.images_ok} images, {run.counted.output_bytes / 1e6:.0f} MB"
    )


def _figures(runs: list[Repeat], rows: int) -> dict[str, float]:
    """Medians over the repeats of one program; `images_per_s` is of the whole run, start included."""
    return {
        "cpu_s_per_1000": statistics.median(run.measurement.cpu_s for run in runs) / rows * 1000,
        "wall_s": statistics.median(run.measurement.wall_s for run in runs),
        "images_per_s": statistics.median(run.counted.images_ok / run.measurement.wall_s for run in runs),
        "peak_pss_mb": max(run.measurement.peak_pss_bytes for run in runs) / 1e6,
        "peak_rss_mb": max(run.measurement.peak_rss_bytes for run in runs) / 1e6,
        "output_mb": statistics.median(run.counted.output_bytes for run in runs) / 1e6,
    }


def _result(
    comparison: Comparison,
    bench: Bench,
    rows: int,
    runs: list[Repeat],
    commands: dict[str, str],
    machine: Machine,
    date: str,
    corpus: Corpus,
) -> Result:
    figures: dict[str, Any] = {
        program: _figures([run for run in runs if run.program == program], rows) for program in bench.programs
    }
    key = "cpu_s_per_1000" if comparison.measure == "cpu" else "wall_s"
    value = float("nan")
    if len(figures) == len(PROGRAMS):
        value = figures["turbo-fetch"][key] / figures["img2dataset"][key]
    return Result(
        row=comparison.row,
        measure={"cpu": "CPU-seconds", "wall": "wall time"}[comparison.measure] + " divided by the peer's",
        value=value,
        unit="times",
        relation="<=",
        target=comparison.target,
        date=date,
        command=bench.command,
        machine=machine,
        versions={"ours": our_versions(), "peer": peer_versions(ensure_peer(bench.cache, comparison.python))},
        parameters={
            "requests": rows,
            "samples_per_shard": comparison.samples_per_shard,
            "server": comparison.server,
            "timeout_s": comparison.timeout_s,
            "retries": comparison.retries,
            "corpus": {
                "pictures": len(corpus.pictures),
                "mean_kb": corpus.mean_bytes / 1e3,
                "mean_megapixels": corpus.mean_pixels / 1e6,
                "digest": corpus.digest,
            },
        },
        programs=commands,
        figures=figures,
        repeats=[run.as_json() for run in runs],
    )
