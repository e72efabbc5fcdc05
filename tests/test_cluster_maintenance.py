"""Maintenance on a Ray cluster of several nodes: what it makes is what it makes on one machine, whoever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import processes
import turbo_fetch
from album import album
from jobs import amid, content_hashes, job_spec, ledger, manifest, start, write_list
from origin import Origin
from processes import PATIENCE_S, files_below, finished, kill, wait_until
from ray_nodes import ray_cluster, worker_processes, working
from spark_runs import executors, spark_environment
from turbo_fetch.cli.commands import app

ALBUM = album(300, side=64)
SHARDS = 6
LATE = range(1, 300, 3)
"""Rows that a run does not get, and a retry does."""
LOST = 16
"""Requests that each kill may make a command repeat."""

pytestmark = [pytest.mark.timeout(600), pytest.mark.cluster]


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(nodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def made(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of six shards in which every third row has failed for once."""
    folder = tmp_path_factory.mktemp("made")
    rows = [
        origin.url(name, "status", code=503, times=1) if row in LATE else origin.url(name)
        for row, name in enumerate(ALBUM)
    ]
    urls = write_list(folder / "list.parquet", rows)
    http = {"retries": 0, "concurrency": 4}
    turbo_fetch.run(job_spec(urls, folder / "out", http=http, output={"samples_per_shard": 50}))
    return folder / "out"


@pytest.fixture(scope="module")
def retried(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, retried on this machine."""
    return _locally(made, tmp_path_factory.mktemp("retried"), "retry")


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def _locally(made: Path, folder: Path, command: str, *options: str) -> Path:
    out = Path(shutil.copytree(made, folder / "out"))
    ended = CliRunner().invoke(app, [command, str(out), "--quiet", *options])
    assert ended.exit_code == 0, ended.output
    return out


def _start(cluster: Any, command: str, *arguments: str) -> subprocess.Popen[str]:
    engine = ["--set", "engine.kind=ray", "--set", f"engine.address={cluster.address}"]
    return _start_here(command, *arguments, *engine)


def _start_on_spark(folder: Path, address: str, command: str, *arguments: str) -> subprocess.Popen[str]:
    engine = ["--set", "engine.kind=spark", "--set", f"engine.address={address}"]
    return _start_here(command, *arguments, *engine, cwd=folder, env=spark_environment(folder))


def _start_here(*command: str, **how: Any) -> subprocess.Popen[str]:
    return processes.start(
        [sys.executable, "-m", "turbo_fetch", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **how,
    )


def _ended(process: subprocess.Popen[str]) -> str:
    out, err = finished(process)
    assert process.returncode == 0, err
    return out


def _check(out: Path, expected: Path) -> None:
    assert content_hashes(out) == content_hashes(expected)
    assert [record["shard"] for record in manifest(out)] == list(range(SHARDS))
    for ours, theirs in zip(manifest(out), manifest(expected), strict=True):
        # Ledgers have times.
        assert {**ours, "files": 0} == {**theirs, "files": 0}
    for name in ("key", "url", "outcome", "detail"):
        assert [row[name] for row in ledger(out)] == [row[name] for row in ledger(expected)]
    assert not (out / ".turbo-fetch" / "attempts").exists()
    assert not (out / ".turbo-fetch" / "beacon").exists()


def test_a_retry_makes_what_one_on_this_machine_makes(
    cluster: Any, copied: Path, retried: Path, origin: Origin
) -> None:
    hits = origin.hits.total()
    result = json.loads(_ended(_start(cluster, "retry", str(copied), "--quiet", "--json")))
    assert (result["asked"], result["shards"], result["recovered"]) == (len(LATE), SHARDS, len(LATE))
    assert origin.hits.total() - hits == len(LATE)
    _check(copied, retried)


def test_a_retry_whose_workers_and_driver_are_killed_goes_on(
    cluster: Any, copied: Path, retried: Path, origin: Origin
) -> None:
    hits = origin.hits.total()
    origin.latency_s = 0.2
    try:
        process = _start(cluster, "retry", str(copied))
        for _ in range(2):
            with amid(process, origin, 20):
                kill(worker_processes()[0])
        with amid(process, origin, 20):
            process.kill()
        process.communicate()
        again = _start(cluster, "retry", str(copied))
        with amid(again, origin, 8):
            os.killpg(again.pid, signal.SIGINT)
            _, err = finished(again)
        assert again.returncode == 130, err
        assert "Run the same command again to resume" in err
    finally:
        origin.latency_s = 0.0
    _ended(_start(cluster, "retry", str(copied)))
    _check(copied, retried)
    assert origin.hits.total() - hits <= len(LATE) + 4 * LOST


def test_a_retry_that_was_begun_here_goes_on_here_and_the_rest_on_the_cluster(
    cluster: Any, copied: Path, retried: Path, origin: Origin
) -> None:
    origin.latency_s = 60
    hits = origin.hits.total()
    try:
        process = _start_here("retry", str(copied), "--set", "fetch.http.concurrency=1")
        wait_until("a request", lambda: origin.hits.total() > hits, process)
        process.send_signal(signal.SIGINT)
        finished(process)
    finally:
        origin.latency_s = 0.0
    begun = list((copied / ".turbo-fetch").glob("*.spool"))
    assert begun
    _ended(_start(cluster, "retry", str(copied)))
    _check(copied, retried)
    assert not list((copied / ".turbo-fetch").glob("*.spool"))


@pytest.fixture
def drifted(origin: Origin) -> Iterator[None]:
    """Every seventh picture is another one now, and every eleventh is gone."""
    names = list(ALBUM)
    changed = dict.fromkeys(names[::7], ALBUM[names[5]])
    gone = set(names[1::11])
    origin.pictures = {name: body for name, body in {**ALBUM, **changed}.items() if name not in gone}
    yield
    origin.pictures = ALBUM


@pytest.mark.parametrize("kills", [False, True])
def test_a_refresh_applies_what_one_on_this_machine_applies(
    cluster: Any, retried: Path, tmp_path: Path, origin: Origin, drifted: None, kills: bool
) -> None:
    options = ["--apply", "--drop-gone"]
    expected = _locally(retried, tmp_path / "expected", "refresh", *options)
    out = Path(shutil.copytree(retried, tmp_path / "out"))
    if kills:
        origin.latency_s = 0.05
        try:
            process = _start(cluster, "refresh", str(out), *options)
            with amid(process, origin, 60):
                kill(worker_processes()[0])
            with amid(process, origin, 60):
                process.kill()
            process.communicate()
        finally:
            origin.latency_s = 0.0
    result = json.loads(_ended(_start(cluster, "refresh", str(out), *options, "--json")))
    _check(out, expected)
    reports = {path.name: path.read_bytes() for path in sorted(out.glob(".turbo-fetch/refresh/*.refresh"))}
    assert len(reports) == SHARDS
    theirs = expected.glob(".turbo-fetch/refresh/*.refresh")
    assert reports == {path.name: path.read_bytes() for path in sorted(theirs)}
    assert result["drift"]["changed"] > 20
    assert result["drift"]["gone"] > 10


def test_a_refresh_that_only_reports_changes_nothing(
    cluster: Any, retried: Path, tmp_path: Path, drifted: None
) -> None:
    out = Path(shutil.copytree(retried, tmp_path / "out"))
    before = manifest(out)
    result = json.loads(_ended(_start(cluster, "refresh", str(out), "--json")))
    assert result["drift"]["changed"] > 20
    assert manifest(out) == before
    assert len(list(out.glob(".turbo-fetch/refresh/*.refresh"))) == SHARDS
    _check(out, retried)


def test_what_one_machine_finds_wrong_the_cluster_finds(cluster: Any, copied: Path) -> None:
    damaged = copied / "00002.tar"
    content = bytearray(damaged.read_bytes())
    content[2000] ^= 1
    damaged.write_bytes(content)
    (copied / "00004.parquet").unlink()
    here = CliRunner().invoke(app, ["verify", str(copied), "--quiet", "--json", "--workers", "1"])
    assert here.exit_code == 1, here.output
    process = _start(cluster, "verify", str(copied), "--quiet", "--json")
    out, err = finished(process)
    assert process.returncode == 1, err
    assert json.loads(out) == json.loads(here.stdout)
    assert {problem["shard"] for problem in json.loads(out)["problems"]} == {"00002", "00004"}


def test_an_export_whose_processes_and_driver_are_killed_goes_on(
    cluster: Any, retried: Path, tmp_path: Path
) -> None:
    options = ["--format", "parquet", "--samples-per-shard", "20"]
    arguments = [str(retried), str(tmp_path / "here"), *options]
    ended = CliRunner().invoke(app, ["export", *arguments, "--quiet", "--workers", "1"])
    assert ended.exit_code == 0, ended.output
    there = [str(retried), str(tmp_path / "there"), *options]
    process = _start(cluster, "export", *there)
    for step in wait_until("a step", lambda: working("_run"), process):
        kill(step)
    wait_until("a shard", lambda: files_below(tmp_path / "there", "*_stats.json"), process)
    process.kill()
    process.communicate()
    _ended(_start(cluster, "export", *there))
    assert content_hashes(tmp_path / "there") == content_hashes(tmp_path / "here")
    assert manifest(tmp_path / "there") == manifest(tmp_path / "here")
    assert not (tmp_path / "there" / ".turbo-fetch" / "attempts").exists()


def test_duplicates_by_content_are_those_of_one_machine(cluster: Any, origin: Origin, tmp_path: Path) -> None:
    names = list(ALBUM)
    rows = [origin.url(name) for name in names[:100]] + [f"{origin.url(name)}?copy" for name in names[:100:9]]
    urls = write_list(tmp_path / "list.parquet", rows)
    tables: dict[str, Any] = {"duplicates": {"by": ["hash"]}, "output": {"samples_per_shard": 30}}
    turbo_fetch.run(job_spec(urls, tmp_path / "here", **tables))
    engine = {"kind": "ray", "address": cluster.address}
    process = start(job_spec(urls, tmp_path / "there", engine=engine, **tables), tmp_path)
    out, err = finished(process)
    assert process.returncode == 0, err
    assert "duplicate 12" in out
    details = [row["detail"] for row in ledger(tmp_path / "there") if row["outcome"] == "duplicate"]
    assert details[:2] == ["duplicate of 0000000", "duplicate of 0000009"]
    for mine, theirs in zip(ledger(tmp_path / "there"), ledger(tmp_path / "here"), strict=True):
        assert (mine["key"], mine["outcome"], mine["detail"]) == (
            theirs["key"],
            theirs["outcome"],
            theirs["detail"],
        )
    assert content_hashes(tmp_path / "there") == content_hashes(tmp_path / "here")
    assert not (tmp_path / "there" / ".turbo-fetch" / "attempts").exists()


@pytest.mark.timeout(600)
def test_spark_exports_and_verifies_as_one_machine_does(retried: Path, tmp_path: Path) -> None:
    expected = [str(retried), str(tmp_path / "here"), "--format", "parquet"]
    assert CliRunner().invoke(app, ["export", *expected, "--quiet", "--workers", "1"]).exit_code == 0
    engine = ["--set", "engine.kind=spark", "--set", "engine.address=local[2]", "--quiet"]
    for command in (
        ["export", str(retried), str(tmp_path / "there"), "--format", "parquet"],
        ["verify", str(tmp_path / "there"), "--deep"],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "turbo_fetch", *command, *engine],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=tmp_path,
            env=spark_environment(tmp_path),
        )
        assert ended.returncode == 0, ended.stderr
    assert content_hashes(tmp_path / "there") == content_hashes(tmp_path / "here")
    assert not (tmp_path / "there" / ".turbo-fetch" / "attempts").exists()


@pytest.mark.parametrize("command", ["retry", "refresh"])
def test_what_spark_retries_and_refreshes_is_what_one_machine_does_whoever_is_killed(
    command: str,
    made: Path,
    retried: Path,
    tmp_path: Path,
    origin: Origin,
    request: pytest.FixtureRequest,
) -> None:
    if command == "retry":
        options, before, expected = [], made, retried
    else:
        request.getfixturevalue("drifted")
        options, before = ["--apply", "--drop-gone"], retried
        expected = _locally(retried, tmp_path / "expected", "refresh", *options)
    out = Path(shutil.copytree(before, tmp_path / "out"))
    hits = origin.hits.total()
    origin.latency_s = 0.2
    try:
        process = _start_on_spark(tmp_path, "local-cluster[2,1,700]", command, str(out), *options)
        with amid(process, origin, 20):
            kill(executors(process)[0])
        with amid(process, origin, 20):
            process.kill()
        process.communicate()
    finally:
        origin.latency_s = 0.0
    # Without executors it starts in a third of the time.
    _ended(_start_on_spark(tmp_path, "local[2]", command, str(out), *options))
    _check(out, expected)
    asked = len(LATE) if command == "retry" else len(ALBUM)
    assert asked <= origin.hits.total() - hits <= asked + 2 * LOST


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["verify", "OUT", "--set", "fetch.http.timeout_s=1"], "--set fetch: means nothing here"),
        (["verify", "OUT", "--set", "engine.shards=0/2"], "--set engine.shards: means nothing here"),
        (["verify", "OUT", "--set", "engine.kind=raay"], "'ray' or 'spark'"),
        (
            ["export", "OUT", "x", "-f", "lmdb", "--merge", "--set", "engine.kind=ray"],
            "written by one process",
        ),
        (
            ["verify", "OUT", "--set", "engine.kind=ray", "--set", "engine.address=127.0.0.1:9"],
            "no Ray cluster at 127.0.0.1:9",
        ),
    ],
)
def test_what_makes_no_sense_is_one_sentence(made: Path, command: list[str], told: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "turbo_fetch", *(str(made) if word == "OUT" else word for word in command)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
