"""Runs on a Spark cluster with real executor processes: the bytes are those of a local run, whoever is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from album import album
from jobs import content_hashes, job_spec, ledger, manifest, undisturbed, wait_for_hits
from origin import Origin
from turbo_fetch.spec.specfile import dump_spec

ALBUM = album(300, side=96)

pytestmark = [pytest.mark.timeout(240), pytest.mark.cluster]


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
        lambda urls, output: job_spec(urls, output, output={"samples_per_shard": 60}),
    )


def _start(urls: Path, folder: Path, python: str = sys.executable, **http: object) -> subprocess.Popen[str]:
    """Start a run on two executors, as a user does whose Spark is set up by its configuration folder."""
    spec = job_spec(
        urls,
        folder / "out",
        http={"concurrency": 4, **http},
        output={"samples_per_shard": 60},
        engine={"kind": "spark", "address": "local-cluster[2,1,700]"},
    )
    (folder / "job.toml").write_text(dump_spec(spec))
    (folder / "spark-defaults.conf").write_text(
        "spark.driver.host 127.0.0.1\nspark.driver.bindAddress 127.0.0.1\nspark.ui.enabled false\n"
        f"spark.executor.memory 600m\nspark.local.dir {folder / 'local'}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-m", "turbo_fetch", "run", str(folder / "job.toml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=folder,
        env={**os.environ, "SPARK_CONF_DIR": str(folder), "PYSPARK_PYTHON": python},
    )


def _executors(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "CoarseGrainedExecutorBackend" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_an_executor_that_is_lost_costs_nothing_and_the_bytes_are_those_of_a_local_run(
    quiet: tuple[Path, dict[str, str]], origin: Origin, tmp_path: Path
) -> None:
    urls, expected = quiet
    origin.load.by_host_most.clear()
    process = _start(urls, tmp_path, per_domain=3)
    wait_for_hits(process, origin, 120)
    executors = _executors(process)
    assert len(executors) == 2
    executors[0].kill()
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert "300 of 300 rows" in out
    assert content_hashes(tmp_path / "out") == expected
    assert Counter(record["shard"] for record in manifest(tmp_path / "out")) == Counter(range(5))
    assert len(ledger(tmp_path / "out")) == 300
    assert list(origin.load.by_host_most.values()) == [3], (
        "the limit holds for all workers, dead ones included"
    )


def test_a_python_without_turbo_fetch_is_one_clear_message(
    quiet: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    urls, _ = quiet
    outside_of_the_environment = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    process = _start(urls, tmp_path, str(outside_of_the_environment))
    out, err = process.communicate(timeout=150)
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
        timeout=120,
        check=False,
    )
    assert process.returncode == 2
    assert "no Spark at nonsense" in process.stderr
    assert process.stdout == ""
