"""Runs on a Ray cluster of several nodes: the bytes are those of a local run, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import turbo_fetch
from album import album
from jobs import amid, content_hashes, job_spec, ledger, manifest, start, undisturbed, write_list
from origin import Origin
from processes import finished, kill, wait_until
from ray_nodes import NODE, ray_cluster, worker_processes
from scoring import BRIGHTNESS, COLUMNS, written
from shares import Shares, are_even
from turbo_fetch.plan.sharder import Plan
from turbo_fetch.runners.ray.runner import RayRunner
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import Spec
from turbo_fetch.stop import StopRequest

ALBUM = album(300, side=96)
LOST = 24
"""Requests that each kill may make a run repeat: those in flight, and batches not yet in a spool, of a busy machine."""

pytestmark = [pytest.mark.timeout(600), pytest.mark.cluster]


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM, latency_s=0.05) as origin:
        yield origin


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(nodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def quiet(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The list, and what a local run makes of it."""
    return undisturbed(
        tmp_path_factory.mktemp("quiet"),
        origin,
        ALBUM,
        lambda urls, output: job_spec(urls, output, output={"samples_per_shard": 60}),
    )


def _spec(urls: Path, output: Path, address: str, **engine: object) -> Spec:
    return job_spec(
        urls,
        output,
        http={"concurrency": 4},
        output={"samples_per_shard": 60},
        engine={"kind": "ray", "address": address, **engine},
    )


def _check(process: subprocess.Popen[str], output: Path, expected: dict[str, str]) -> str:
    out, err = finished(process)
    assert process.returncode == 0, err
    assert content_hashes(output) == expected
    assert Counter(record["shard"] for record in manifest(output)) == Counter(range(5))
    assert len(ledger(output)) == 300
    assert "300 of 300 rows" in out
    assert not (output / ".turbo-fetch" / "attempts").exists()
    return " ".join(err.split())


def test_the_bytes_are_those_of_a_local_run_and_both_nodes_work(
    cluster: Any, quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    before = origin.connections
    process = start(_spec(urls, tmp_path / "out", cluster.address), tmp_path)
    with amid(process, origin, 60):
        wait_until("two workers", lambda: len(worker_processes()) >= 2, process)
    _check(process, tmp_path / "out", expected)
    # Warm workers: connections outlive shards, once those of the first quarter of a second have rested.
    assert origin.connections - before <= 100


def test_nodes_score_with_the_code_that_the_driver_read(
    cluster: Any, quiet: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    urls, _ = quiet
    score = {"function": f"{written(tmp_path, BRIGHTNESS)}:Brightness", "columns": COLUMNS}
    output = {"samples_per_shard": 60}
    turbo_fetch.run(job_spec(urls, tmp_path / "local", output=output, score=score))
    on_ray = {"kind": "ray", "address": cluster.address}
    turbo_fetch.run(job_spec(urls, tmp_path / "out", output=output, score=score, engine=on_ray))
    assert content_hashes(tmp_path / "out") == content_hashes(tmp_path / "local")


def test_killed_workers_are_replaced_and_no_shard_is_lost_or_doubled(
    cluster: Any, quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    before = origin.hits.total()
    process = start(_spec(urls, tmp_path / "out", cluster.address), tmp_path)
    for _ in range(3):
        with amid(process, origin, 80):
            kill(worker_processes()[0])
    err = _check(process, tmp_path / "out", expected)
    assert "a new worker resumes its shards" in err
    # What a dead worker had in its spools is adopted by the next one on that machine.
    assert origin.hits.total() - before <= 300 + 3 * LOST


def test_a_node_that_leaves_has_its_shards_done_elsewhere_and_one_that_joins_is_used(
    cluster: Any, quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    process = start(_spec(urls, tmp_path / "out", cluster.address), tmp_path)
    with amid(process, origin, 60):
        victim = cluster.list_all_nodes()[-1]
        cluster.remove_node(victim, allow_graceful=False)
    cluster.add_node(**NODE)
    err = _check(process, tmp_path / "out", expected)
    assert err.count(" left (1 of the workers); their shards are resumed elsewhere") == 1


def test_a_driver_that_is_killed_goes_on_where_it_was(
    cluster: Any, quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    before = origin.hits.total()
    spec = _spec(urls, tmp_path / "out", cluster.address)
    process = start(spec, tmp_path)
    with amid(process, origin, 150):
        process.kill()
    process.communicate()
    _check(start(spec, tmp_path), tmp_path / "out", expected)
    assert origin.hits.total() - before <= 300 + 4 * LOST


def test_ctrl_c_saves_what_arrived_and_ends_within_seconds(
    cluster: Any, quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    before = origin.hits.total()
    spec = _spec(urls, tmp_path / "out", cluster.address)
    process = start(spec, tmp_path)
    with amid(process, origin, 150):
        os.killpg(process.pid, signal.SIGINT)
        _, err = finished(process)
    assert process.returncode == 130, err
    assert "Run the same command again to resume" in err
    assert "Traceback" not in err
    _check(start(spec, tmp_path), tmp_path / "out", expected)
    assert origin.hits.total() - before <= 300 + 2 * LOST


def test_a_number_of_workers_may_be_asked_for(
    cluster: Any, quiet: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    urls, expected = quiet
    process = start(_spec(urls, tmp_path / "out", cluster.address, workers=1, threads=1), tmp_path)
    _check(process, tmp_path / "out", expected)


def test_the_limit_of_a_domain_holds_for_all_workers_and_is_used(cluster: Any, tmp_path: Path) -> None:
    with Origin(ALBUM, latency_s=0.03) as origin:
        urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
        spec = job_spec(
            urls,
            tmp_path / "out",
            http={"per_domain": 3, "robots": "respect"},
            output={"samples_per_shard": 30},
            engine={"kind": "ray", "address": cluster.address},
        )
        _, err = start(spec, tmp_path).communicate(timeout=120)
        assert len(ledger(tmp_path / "out")) == len(ALBUM), err
    assert list(origin.load.by_host_most.values()) == [3]
    assert origin.hits["/robots.txt"] == 1
    assert origin.connections > 2


def test_a_node_that_joins_late_does_its_share(tmp_path: Path) -> None:
    rows_per_shard, shards = 30, 60
    joined: list[object] = []
    with ray_cluster(nodes=2) as cluster, Origin(ALBUM, latency_s=0.1) as origin:
        addresses = [f"{origin.url(name)}?{number}" for number in range(6) for name in ALBUM]
        urls = write_list(tmp_path / "list.parquet", addresses)
        spec = job_spec(
            urls,
            tmp_path / "out",
            http={"per_domain": 6},
            output={"samples_per_shard": rows_per_shard},
            engine={"kind": "ray", "address": cluster.address},
        )

        def join_at_half_time(shares: Shares) -> None:
            if not joined and shares.rows.total() >= len(addresses) // 2:
                joined.append(cluster.add_node(**NODE))

        assert spec.fetch is not None
        shares = Shares(join_at_half_time)
        runner = RayRunner(spec.fetch, spec.engine, shares, StopRequest())
        runner.run(map(ShardTask, Plan.of(spec.fetch.input, rows_per_shard).shards(0)))
    assert shares.shards == Counter(range(shards))
    assert are_even([shares.at_start[2][worker] for worker in (0, 1)]), shares.at_start
    # Whoever comes into the place of one that was through at the very end finds nothing left.
    assert are_even(shares.since(2)[:3]), shares.since(2)
    assert origin.hits.total() == len(addresses)


def test_no_cluster_is_one_clear_message(quiet: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    urls, _ = quiet
    process = start(_spec(urls, tmp_path / "out", "127.0.0.1:9"), tmp_path)
    out, err = finished(process)
    assert process.returncode == 2
    assert "no Ray cluster at 127.0.0.1:9" in err
    assert "Traceback" not in err
    assert out == ""
