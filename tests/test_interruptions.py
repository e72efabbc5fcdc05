"""Runs that are stopped, killed and crashed: nothing is lost, and the bytes are those of a quiet run."""

from __future__ import annotations

import os
import random
import signal
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from time import sleep

import psutil
import pytest

from album import album
from jobs import (
    amid,
    content_hashes,
    job_spec,
    ledger,
    manifest,
    start,
    undisturbed,
    wait_for_hits,
    write_list,
)
from origin import Origin
from processes import PATIENCE_S, descendants, finished, kill, send, wait_until
from turbo_fetch.spec import Spec

ALBUM = album(400, side=96)
KILLS = 20


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM, latency_s=0.02) as origin:
        yield origin


@pytest.fixture(scope="module")
def quiet(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The list, and what an uninterrupted run makes of it."""
    return undisturbed(tmp_path_factory.mktemp("quiet"), origin, ALBUM, _spec)


def _spec(urls: Path, output: Path) -> Spec:
    return job_spec(urls, output, http={"concurrency": 4}, engine={"workers": 2, "threads": 1})


def _wait_until_gone(workers: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE_S)
    assert not alive, f"workers outlive their parent: {alive}"


@pytest.mark.timeout(600)
def test_killed_at_random_points_twenty_times_the_bytes_are_the_same(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    choose = random.Random(20)
    spec = _spec(urls, tmp_path / "out")
    kills, numbers = 0, count()
    while kills < KILLS:
        process = start(spec, tmp_path)
        wait_for_hits(process, origin, choose.randint(0, 30))
        workers = descendants(process)
        victim = choose.choice(["parent", "worker", "group"])
        if process.poll() is not None:
            # It got to the end before it could be killed: begin another dataset.
            assert process.returncode == 0, process.communicate()
            assert spec.fetch is not None
            assert content_hashes(Path(spec.fetch.output.path)) == expected
            spec = _spec(urls, tmp_path / "again" / str(next(numbers)) / "out")
            continue
        kills += 1
        if victim == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == "worker" and workers:
            kill(choose.choice(workers))
            wait_for_hits(process, origin, choose.randint(1, 30))
            process.kill()
        else:
            process.kill()
        process.communicate()
        _wait_until_gone(workers)
    assert spec.fetch is not None
    final = Path(spec.fetch.output.path)
    process = start(spec, tmp_path)
    out, err = finished(process)
    assert process.returncode == 0, err
    assert content_hashes(final) == expected
    assert [row["url"] for row in ledger(final)] == [origin.url(name) for name in ALBUM]
    assert len(manifest(final)) == 8
    assert "400 of 400 rows" in out


@pytest.mark.parametrize("which", ["turbo_fetch", "turbo_fetch.runners", "turbo_fetch.monitor"])
def test_a_process_that_stands_still_for_longer_than_a_request_may_take_costs_no_row(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path, which: str
) -> None:
    urls, expected = quiet
    http = {"concurrency": 4, "retries": 0, "timeout_s": 4.0, "stall_timeout_s": 3.0}
    process = start(
        job_spec(urls, tmp_path / "out", http=http, engine={"workers": 2, "threads": 1}), tmp_path
    )
    # So that there are some ten seconds in which to find them before the run is over.
    with origin.slowed(0.2):
        wait_for_hits(process, origin, 60)
        tree = [psutil.Process(process.pid), *descendants(process)]
        held = [one for one in tree if which in one.cmdline()]
        assert held
        send(signal.SIGSTOP, *held)
    # Not to wait for anything: this is how long they stand still.
    sleep(5)
    send(signal.SIGCONT, *held)
    _, err = finished(process)
    assert process.returncode == 0, err
    assert content_hashes(tmp_path / "out") == expected
    assert {(row["outcome"], row["attempts"]) for row in ledger(tmp_path / "out")} == {("success", 1)}


def test_a_worker_that_dies_is_replaced_and_its_shards_go_on(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    process = start(_spec(urls, tmp_path / "out"), tmp_path)
    with amid(process, origin, 60):
        kill(descendants(process, "turbo_fetch.runners")[0])
    out, err = finished(process)
    assert process.returncode == 0, err
    assert "was ended by SIGKILL; a new worker resumes its shards" in err
    assert "400 of 400 rows" in out
    assert content_hashes(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("number", "reach"),
    [
        # Ctrl-C, and the end of a terminal, reach the whole process group; supervisors do either.
        (signal.SIGINT, os.killpg),
        (signal.SIGHUP, os.killpg),
        (signal.SIGTERM, os.killpg),
        (signal.SIGTERM, os.kill),
    ],
)
def test_a_signal_stops_within_seconds_saves_what_arrived_and_says_how_to_go_on(
    quiet: tuple[Path, dict[str, str]],
    origin: Origin,
    tmp_path: Path,
    number: signal.Signals,
    reach: Callable[[int, int], None],
) -> None:
    urls, expected = quiet
    process = start(_spec(urls, tmp_path / "out"), tmp_path)
    with amid(process, origin, 100):
        workers = descendants(process)
        reach(process.pid, number)
        _, err = finished(process)
    assert process.returncode == 130, err
    assert "monitor" not in err
    assert "stopping: what was begun is being saved" in err
    assert "Run the same command again to resume" in err
    assert "Traceback" not in err
    _wait_until_gone(workers)

    hits = origin.hits.total()
    process = start(_spec(urls, tmp_path / "out"), tmp_path)
    _, err = finished(process)
    assert process.returncode == 0, err
    assert content_hashes(tmp_path / "out") == expected
    # Of the hundred rows asked for, only those in flight (4 in each of 2 workers) are asked for again.
    assert origin.hits.total() - hits <= 400 - 100 + 2 * 4 + 4


def test_a_slow_row_never_holds_up_its_neighbours(origin: Origin, tmp_path: Path) -> None:
    names = list(ALBUM)
    rows = [origin.url(name) for name in names]
    # Answered when somebody asks who does not belong to the run.
    rows[10] = origin.url(names[10], "held", until=len(origin.received) + len(rows) + 1)
    urls = write_list(tmp_path / "list.parquet", rows)
    patient = {"concurrency": 16, "timeout_s": 500, "stall_timeout_s": 500}
    process = start(job_spec(urls, tmp_path / "out", http=patient), tmp_path)
    others = [tmp_path / "out" / f"{shard:05d}_stats.json" for shard in range(1, 8)]
    wait_until("all shards but the slow one", lambda: all(path.exists() for path in others), process)
    assert not (tmp_path / "out" / "00000_stats.json").exists()
    urllib.request.urlopen(origin.url(names[0])).close()
    _, err = finished(process)
    assert process.returncode == 0, err
    assert len(manifest(tmp_path / "out")) == 8


def test_two_runs_on_one_output_do_not_mix(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    first = start(_spec(urls, tmp_path / "out"), tmp_path)
    # Held still, or it might be over before the second one has started.
    with amid(first, origin, 20):
        workers = descendants(first)
        send(signal.SIGSTOP, *workers)
    second = start(_spec(urls, tmp_path / "out"), tmp_path)
    _, err = finished(second)
    send(signal.SIGCONT, *workers)
    assert second.returncode == 75
    assert f"another run (process {first.pid} on " in err
    _, err = finished(first)
    assert first.returncode == 0, err
    assert content_hashes(tmp_path / "out") == expected
