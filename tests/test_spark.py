"""Runs on a Spark cluster with real executor processes: the bytes are those of a local run, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from album import album
from jobs import amid, content_hashes, job_spec, ledger, manifest, undisturbed, wait_for_hits, write_list
from origin import Origin
from processes import PATIENCE_S, finished, free_port, kill, wait_until
from spark_runs import events, executors, start_on_spark
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec

ALBUM = album(300, side=96)
LOST = 16
"""Requests that the end of a worker may make a run repeat: those in flight, and batches not yet in a spool."""

pytestmark = [pytest.mark.timeout(600), pytest.mark.cluster]


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM, latency_s=0.05) as origin:
        yield origin


@pytest.fixture(scope="module")
def quiet(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The list, and what a local run makes of it."""
    return undisturbed(
        tmp_path_factory.mktemp("quiet"),
        origin,
        ALBUM,
        lambda urls, output: job_spec(urls, output, output={"samples_per_shard": 20}),
    )


def _spec(
    urls: Path, folder: Path, executors: int = 2, port: int = 0, workers: int | str = "auto", **http: object
) -> Spec:
    return job_spec(
        urls,
        folder / "out",
        http={"concurrency": 4, **http},
        output={"samples_per_shard": 20},
        engine={
            "kind": "spark",
            "address": f"local-cluster[{executors},1,700]",
            "port": port,
            "workers": workers,
        },
    )


def _check(process: subprocess.Popen[str], folder: Path, expected: dict[str, str]) -> str:
    out, err = finished(process)
    assert process.returncode == 0, err
    assert "300 of 300 rows" in out
    assert content_hashes(folder / "out") == expected
    assert Counter(record["shard"] for record in manifest(folder / "out")) == Counter(range(15))
    assert len(ledger(folder / "out")) == 300
    return " ".join(err.split())


def test_an_executor_that_is_lost_costs_nothing_and_the_bytes_are_those_of_a_local_run(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    origin.load.by_host_most.clear()
    process = start_on_spark(_spec(urls, tmp_path, per_domain=3), tmp_path)
    with amid(process, origin, 120):
        wait_until("two executors", lambda: len(executors(process)) == 2, process)
        kill(executors(process)[0])
    _check(process, tmp_path, expected)
    assert list(origin.load.by_host_most.values()) == [3], (
        "the limit holds for all workers, dead ones included"
    )


def test_ctrl_c_saves_what_arrived_and_ends_within_seconds(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    before = origin.hits.total()
    spec = _spec(urls, tmp_path, per_domain=3)
    process = start_on_spark(spec, tmp_path)
    with amid(process, origin, 150):
        # As a terminal does: to the driver, Spark, its executors and their Python processes.
        os.killpg(process.pid, signal.SIGINT)
        _, err = finished(process)
    assert process.returncode == 130, err
    assert "Run the same command again to resume" in " ".join(err.split())
    assert "turbo_fetch/" not in err
    engine = spec.engine.model_copy(update={"address": "local[2]"})
    _check(start_on_spark(spec.model_copy(update={"engine": engine}), tmp_path), tmp_path, expected)
    assert origin.hits.total() - before <= 300 + 2 * LOST


def test_executors_that_are_lost_more_often_than_spark_bears_cost_nothing_while_rows_are_done(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    """Spark ends a job of which one task has failed four times (`spark.task.maxFailures`): the next one goes on."""
    urls, expected = quiet
    before = origin.hits.total()
    process = start_on_spark(_spec(urls, tmp_path, executors=1), tmp_path)
    kills = 5
    for _ in range(kills):
        with amid(process, origin, 40):
            for executor in executors(process):
                kill(executor)
    err = _check(process, tmp_path, expected)
    assert err.count("a new worker resumes its shards") >= kills
    failed = [
        event for event in events(tmp_path, "SparkListenerJobEnd") if "JobFailed" in str(event["Job Result"])
    ]
    assert failed, "a job is to have failed for good"
    assert origin.hits.total() - before <= 300 + 16 * kills


def test_executors_that_are_lost_before_a_row_is_done_end_the_run_in_one_sentence(tmp_path: Path) -> None:
    with Origin(ALBUM, latency_s=20) as slow:
        urls = write_list(tmp_path / "list.parquet", [slow.url(name) for name in ALBUM])
        process = start_on_spark(_spec(urls, tmp_path, executors=1, timeout_s=60), tmp_path)

        def is_over() -> bool:
            for executor in executors(process, at_work=True):
                kill(executor)
            return process.poll() is not None

        wait_until("the end of the run", is_over, process)
    out, err = process.communicate()
    assert process.returncode == 1, err
    told = " ".join(err.split())
    assert "Spark lost the executor of a worker 4 times while no row was done" in told
    assert "what arrived is saved" in told
    assert "Traceback" not in err
    assert out == ""


def test_tasks_end_and_speculation_does_no_row_twice(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    before = origin.hits.total()
    port = free_port()
    conf: dict[str, Any] = {
        "speculation": True,
        "speculation_interval": "100ms",
        "speculation_multiplier": "1.01",
        "speculation_quantile": "0.1",
        "speculation_minTaskRuntime": "100ms",
    }
    # A core is free for copies, and tasks that begin together end at other times.
    spec = _spec(urls, tmp_path, executors=3, port=port, workers=2, concurrency=1)
    with origin.slowed(0.3):
        process = start_on_spark(spec, tmp_path, task_s=(1, 40), **conf)
        wait_for_hits(process, origin, 4)
        connections = psutil.Process(process.pid).net_connections()
        assert port in [each.laddr.port for each in connections if each.status == "LISTEN"]
        wait_until(
            "a third job of Spark", lambda: len(events(tmp_path, "SparkListenerJobStart")) > 2, process
        )
    _check(process, tmp_path, expected)
    assert origin.hits.total() - before == 300


def test_executors_that_join_later_are_asked_for_and_get_work(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    conf: dict[str, Any] = {
        "dynamicAllocation_enabled": True,
        "dynamicAllocation_minExecutors": 1,
        "dynamicAllocation_initialExecutors": 1,
        "dynamicAllocation_maxExecutors": 3,
        "dynamicAllocation_schedulerBacklogTimeout": "1s",
    }
    spec = _spec(urls, tmp_path, executors=3, concurrency=1)
    with origin.slowed(1.0):
        process = start_on_spark(spec, tmp_path, **conf)
        wait_until("three executors", lambda: len(executors(process, at_work=True)) == 3, process)
        wait_for_hits(process, origin, 4)
    _check(process, tmp_path, expected)
    worked = {event["Task Info"]["Executor ID"] for event in events(tmp_path, "SparkListenerTaskEnd")}
    assert len(worked) == 3


def test_a_python_process_of_spark_stays_as_it_was(
    quiet: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    """A job of a user looks around before and after the run, in the same process of `spark.python.worker.reuse`."""
    urls, expected = quiet
    spec = _spec(urls, tmp_path).model_dump(mode="json", by_alias=True)
    spec["engine"] = {"kind": "spark"}
    (tmp_path / "job.json").write_text(json.dumps(spec))
    found = subprocess.run(
        [sys.executable, "-c", USER, str(tmp_path / "job.json")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": _with_tests()},
    )
    assert found.returncode == 0, found.stderr
    before, after = json.loads(found.stdout.splitlines()[-1])
    assert before["pid"] == after["pid"]
    assert before == after
    assert content_hashes(tmp_path / "out") == expected


def _with_tests() -> str:
    return os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


USER = """
import json, sys
from pathlib import Path
from pyspark.sql import SparkSession
import turbo_fetch
from process_state import settled, state
from turbo_fetch.spec.specfile import parse_spec

spark = (SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
         .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1").getOrCreate())
def look(_):
    # Libraries add filters of warnings and finders when they are imported.
    import pandas, pyarrow.parquet
    import turbo_fetch.runners.spark.worker
    return state()

# The first look imports what the second one finds; a process whose rows were not all read would not be kept.
before = [spark.sparkContext.parallelize([0], 1).map(look).collect()[0] for _ in range(2)][-1]
turbo_fetch.run(parse_spec(json.loads(Path(sys.argv[1]).read_text())))
after = spark.sparkContext.parallelize([0], 1).map(lambda _: settled(before)).collect()[0]
print(json.dumps([before, after]))
"""


def test_a_python_without_turbo_fetch_is_one_clear_message(
    quiet: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    urls, _ = quiet
    outside_of_the_environment = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    process = start_on_spark(_spec(urls, tmp_path), tmp_path, str(outside_of_the_environment))
    out, err = finished(process)
    assert process.returncode == 2, err
    assert "an executor lacks a package: " in err
    assert out == ""
    assert not list((tmp_path / "out").glob("*.tar"))


def test_no_spark_is_one_clear_message(quiet: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    urls, _ = quiet
    spec = job_spec(urls, tmp_path / "out", engine={"kind": "spark", "address": "nonsense"})
    (tmp_path / "job.toml").write_text(dump_spec(spec))
    process = subprocess.run(
        [sys.executable, "-m", "turbo_fetch", "run", str(tmp_path / "job.toml")],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert process.returncode == 2
    assert "no Spark at nonsense" in process.stderr
    assert process.stdout == ""
