"""Refresh: what drifted on the web is told, and applied only if that is wanted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import processes
import turbo_fetch
from album import album
from jobs import amid, content_hashes, job_spec, manifest, write_list
from origin import Origin
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.maintenance.staleness import drift_of
from turbo_fetch.outcomes import Outcome

ALBUM = album(30, side=40)
NAMES = list(ALBUM)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


@pytest.fixture
def out(origin: Origin, tmp_path: Path) -> Path:
    """A dataset of 28 samples in three shards; rows 0 to 9 have an ETag, 25 says noai, 28 and 29 failed."""
    rows = [origin.url(name, *(["validated"] if row < 10 else [])) for row, name in enumerate(NAMES)]
    rows[25] = origin.url(NAMES[25], "header", name="X-Robots-Tag", value="noai")
    rows[28], rows[29] = origin.url("missing.jpg"), "no url"
    spec = job_spec(
        write_list(tmp_path / "l.parquet", rows),
        tmp_path / "out",
        output={"samples_per_shard": 10},
        http={"opt_out": []},
    )
    turbo_fetch.run(spec)
    return tmp_path / "out"


def _drift(origin: Origin) -> None:
    """Change 1 (with an ETag) and 11, take 2 and 12 away, make a page of 13."""
    changed = {NAMES[1]: ALBUM[NAMES[0]], NAMES[11]: ALBUM[NAMES[0]], NAMES[13]: b"<html>sold</html>"}
    gone = {NAMES[2], NAMES[12]}
    origin.pictures = {name: body for name, body in {**ALBUM, **changed}.items() if name not in gone}


def _refresh(out: Path, *options: str) -> dict[str, Any]:
    command = ["refresh", str(out), "--quiet", "--json", "--set", 'fetch.http.opt_out=["noai"]', *options]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def _report(out: Path) -> dict[str, str]:
    rows = [
        row
        for path in sorted(out.glob(".turbo-fetch/refresh/*.refresh"))
        for row in pq.read_table(path).to_pylist()
    ]
    return {row["key"]: row["drift"] for row in rows if row["drift"] != "unchanged"}


EXPECTED = {
    "000001": "changed",
    "000002": "gone",
    "000011": "changed",
    "000012": "gone",
    "000013": "unusable",
    "000025": "refused",
}


def _keys(rows: dict[str, str]) -> dict[str, str]:
    """Return the rows by their place in the list, whatever the width of the keys."""
    return {f"{int(key):06d}": drift for key, drift in rows.items()}


def test_drift_is_reported_and_the_dataset_is_as_it_was(origin: Origin, out: Path) -> None:
    before, lines = content_hashes(out), manifest(out)
    _drift(origin)
    received = len(origin.received)
    result = _refresh(out)
    assert result["drift"] == {"unchanged": 22, "changed": 2, "gone": 2, "unusable": 1, "refused": 1}
    assert _keys(_report(out)) == EXPECTED
    after = content_hashes(out)
    assert (after, manifest(out)) == (before, lines)
    asked = origin.received[received:]
    assert len(asked) == 28
    assert sum("if-none-match" in request.headers for request in asked) == 10
    assert not list((out / ".turbo-fetch").glob("*.spool"))


def test_nothing_drifted_costs_no_body_where_there_is_an_etag(origin: Origin, out: Path) -> None:
    assert _refresh(out, "--set", "fetch.http.opt_out=[]")["drift"] == {"unchanged": 28}
    rows = [
        row
        for path in sorted(out.glob(".turbo-fetch/refresh/*.refresh"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert [row["http_status"] for row in rows] == [304] * 10 + [200] * 18


def test_applied_drift_replaces_changed_and_drops_refused_samples_only(origin: Origin, out: Path) -> None:
    before = {sample.key: sample.image for sample in open_dataset(str(out)).samples()}
    _drift(origin)
    result = _refresh(out, "--apply")
    assert result["drift"]["changed"] == 2
    after = {sample.key: sample.image for sample in open_dataset(str(out)).samples()}
    assert {f"{int(key):06d}" for key in before.keys() - after.keys()} == {"000025"}
    assert {f"{int(key):06d}" for key in after if after[key] != before[key]} == {"000001", "000011"}
    verified = CliRunner().invoke(app, ["verify", str(out), "--deep", "--quiet", "--workers", "1"])
    assert verified.exit_code == 0, verified.output
    assert sum(record["outcomes"]["success"] for record in manifest(out)) == 27
    # What is up to date does not drift again; what is gone still is.
    assert _refresh(out)["drift"] == {"unchanged": 24, "gone": 2, "unusable": 1}
    assert _refresh(out, "--apply", "--drop-gone")["drift"]["gone"] == 2
    assert sum(record["outcomes"]["success"] for record in manifest(out)) == 25


def test_killed_it_goes_on_and_the_dataset_is_whole_meanwhile(origin: Origin, out: Path) -> None:
    before = content_hashes(out)
    _drift(origin)
    command = [
        sys.executable,
        "-m",
        "turbo_fetch",
        "refresh",
        str(out),
        "--apply",
        "--set",
        "fetch.http.concurrency=2",
    ]
    process = processes.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    with amid(process, origin, 5):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = content_hashes(out)
    assert kept == before
    assert _refresh(out, "--apply")["drift"]["changed"] == 2
    assert len(manifest(out)) == 3


def test_killed_while_it_publishes_a_refresh_goes_on_by_itself(origin: Origin, out: Path) -> None:
    """Between two publications, a shard has a report and a spool, and no commit record."""
    _drift(origin)
    command = [sys.executable, "-m", "turbo_fetch", "refresh", str(out), "--apply", "--quiet"]
    (out.parent / "sitecustomize.py").write_text(KILLED_AT_STATS)
    environment = {**os.environ, "PYTHONPATH": f"{out.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    killed = subprocess.run(
        command, env=environment, start_new_session=True, check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL
    assert list((out / ".turbo-fetch").glob("0000?.spool"))
    hits = origin.hits.total()
    assert _refresh(out, "--apply")["drift"]["changed"] == 2
    assert origin.hits.total() - hits < 28
    assert not list((out / ".turbo-fetch").glob("*.spool"))
    verified = CliRunner().invoke(app, ["verify", str(out), "--quiet", "--workers", "1"])
    assert verified.exit_code == 0, verified.output


KILLED_AT_STATS = """
import os, signal, sys

def hook(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("_stats.json"):
        os.killpg(os.getpgid(0), signal.SIGKILL)

sys.addaudithook(hook)
"""


def test_overwriting_the_dataset_deletes_the_report(out: Path) -> None:
    _refresh(out)
    assert (out / ".turbo-fetch/refresh").is_dir()
    command = [
        "run",
        str(out / ".turbo-fetch/spec.toml"),
        "--quiet",
        "--set",
        "fetch.output.if_exists=overwrite",
    ]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    assert not (out / ".turbo-fetch/refresh").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--drop-gone"], "expected both"),
        (["--set", "fetch.image.digest=none"], "without hashes"),
        (["--set", "fetch.image.size=99"], "fetch.image.size was 64"),
    ],
)
def test_what_makes_no_sense_is_refused(out: Path, options: list[str], expected: str) -> None:
    ended = CliRunner().invoke(app, ["refresh", str(out), *options])
    assert ended.exit_code == 2
    assert expected in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("outcome", "status", "digest", "expected"),
    [
        (Outcome.SUCCESS, 304, None, "unchanged"),
        (Outcome.SUCCESS, 200, "a", "unchanged"),
        (Outcome.SUCCESS, 200, "b", "changed"),
        (Outcome.HTTP_4XX, 404, None, "gone"),
        (Outcome.HTTP_4XX, 410, None, "gone"),
        (Outcome.HTTP_4XX, 403, None, "unreachable"),
        (Outcome.NO_SUCH_HOST, None, None, "gone"),
        (Outcome.OPT_OUT, 200, None, "refused"),
        (Outcome.ROBOTS, None, None, "refused"),
        (Outcome.TOO_SMALL, 200, "b", "unusable"),
        (Outcome.TIMEOUT, None, None, "unreachable"),
    ],
)
def test_drift_follows_from_how_the_request_ended(
    outcome: Outcome, status: int | None, digest: str | None, expected: str
) -> None:
    assert drift_of(outcome, status, digest, "a") == expected
