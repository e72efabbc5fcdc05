"""Report and view of a dataset in an object store."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

import processes
import turbo_fetch
from album import album
from jobs import job_spec, write_list
from object_store import configured, empty_bucket, filesystem, s3_server
from origin import Origin
from processes import PATIENCE_S
from turbo_fetch.cli.commands import app

ALBUM = album(6, side=40)
PLACE = "s3://data/set"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An object store with a dataset of two shards, which some other machine made."""
    folder = tmp_path_factory.mktemp("remote")
    with s3_server() as address, configured(address), Origin(ALBUM) as origin:
        empty_bucket(address)
        urls = [*(origin.url(name) for name in ALBUM), origin.url("gone.jpg")]
        spec = job_spec(
            write_list(folder / "list.parquet", urls),
            folder / "ignored",
            output={"path": PLACE, "spool": str(folder / "spool"), "samples_per_shard": 4},
        )
        turbo_fetch.run(spec)
        yield address


def test_a_run_writes_report_and_records_into_the_store_and_report_renews_them(server: str) -> None:
    store = filesystem(server)
    assert store.exists("data/set/.turbo-fetch/metrics")
    store.rm("data/set/report.html")
    ended = CliRunner().invoke(app, ["report", PLACE])
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.strip() == f"{PLACE}/report.html"
    page = store.cat("data/set/report.html").decode()
    assert page.count("<figure") == len(ALBUM)
    assert "HTTP Error 404: Not Found" in page
    assert '"rows_per_s"' in page or "throughput" in page


def test_view_serves_rows_and_images_from_the_store(server: str) -> None:
    command = [sys.executable, "-m", "turbo_fetch", "view", PLACE, "--port", "0"]
    with processes.started(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        dataset = json.loads(_get(f"{address}api/dataset"))
        rows = json.loads(_get(f"{address}api/rows?limit=10"))["rows"]
        failed = json.loads(_get(f"{address}api/rows?outcome=failed"))["rows"]
        image = _get(f"{address}picture/1/0")
        live = json.loads(_get(f"{address}api/live"))
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0
    assert (dataset["path"], dataset["rows"], dataset["shards"]) == (PLACE, 7, 2)
    assert [row["at"] for row in rows] == ["0:0", "0:1", "0:2", "0:3", "1:0", "1:1", "1:2"]
    assert [row["outcome"] for row in failed] == ["http-4xx"]
    assert image.startswith(b"\xff\xd8")
    assert live["running"] is False


@pytest.mark.parametrize("command", ["report", "view"])
@pytest.mark.parametrize("place", ["s3://data/nothing", "s3://no-such-bucket/x", "s4://data/set"])
def test_a_place_without_a_dataset_is_one_clear_error(server: str, command: str, place: str) -> None:
    ended = CliRunner().invoke(app, [command, place])
    assert ended.exit_code == 2, ended.output
    assert ended.stderr.startswith(f"turbo-fetch: {place}")
    assert "Traceback" not in ended.output


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return bytes(answer.read())
