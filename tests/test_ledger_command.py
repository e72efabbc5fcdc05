"""`turbo-fetch ledger`, and the same from Python: what happened to every URL, filtered, in several forms."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import polars
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import turbo_fetch
from old_layout import recorded
from turbo_fetch.cli.commands import app
from turbo_fetch.maintenance.migrate import migrate
from turbo_fetch.stop import StopRequest

FAILED = {"000002": "http-5xx", "000011": "http-4xx"}


class _Unseen:
    def advance(self, rows: int) -> None:
        """See Progress."""

    def refresh(self) -> None:
        """See Progress."""

    def note(self, text: str) -> None:
        """See Progress."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = recorded("webdataset", tmp_path_factory.mktemp("recorded"))
    migrate(str(place), _Unseen(), StopRequest())
    return place


def _keys(dataset: Path, *options: str) -> list[str]:
    ended = CliRunner().invoke(app, ["ledger", str(dataset), "--format", "jsonl", *options])
    assert ended.exit_code == 0, ended.output
    return [json.loads(line)["key"] for line in ended.stdout.splitlines()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--outcome", "failed"], ["000002", "000011"]),
        (["--outcome", "http-4xx"], ["000011"]),
        (["--outcome", "http-4xx", "--outcome", "http-5xx"], ["000002", "000011"]),
        (["--outcome", "failed", "--retryable"], ["000002"]),
        (["--outcome", "failed", "--final"], ["000011"]),
        (["--shard", "1", "--outcome", "failed"], ["000011"]),
        (["--host", "127.0.0.1", "--limit", "2"], ["000000", "000001"]),
        (["--host", "example.com"], []),
        (["--host", "0.0.1"], []),
        (["--final"], ["000011"]),
        (["--retryable"], ["000002"]),
        (["--outcome", "failed", "--limit", str(1 << 62)], ["000002", "000011"]),
    ],
)
def test_rows_are_filtered(dataset: Path, options: list[str], expected: list[str]) -> None:
    assert _keys(dataset, *options) == expected


def test_a_table_is_for_people_and_for_pipes_without_colour(dataset: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "turbo_fetch", "ledger", str(dataset), "--limit", "3"],
        capture_output=True,
        text=True,
        check=True,
    )
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["key", "outcome", "http_status", "attempts", "detail", "url"]
    assert [line.split()[:2] for line in lines] == [
        ["000000", "success"],
        ["000001", "success"],
        ["000002", "http-5xx"],
    ]
    assert "\x1b" not in done.stdout


def test_csv_and_parquet_say_the_same_as_the_file(dataset: Path, tmp_path: Path) -> None:
    whole = turbo_fetch.open_dataset(str(dataset)).ledger()
    text = CliRunner().invoke(
        app, ["ledger", str(dataset), "--format", "csv", "--columns", "key, outcome,url"]
    )
    assert (
        list(csv.DictReader(io.StringIO(text.stdout))) == whole.select(["key", "outcome", "url"]).to_pylist()
    )
    command = [sys.executable, "-m", "turbo_fetch", "ledger", str(dataset), "--format", "parquet"]
    with (tmp_path / "ledger.parquet").open("wb") as file:
        subprocess.run(command, stdout=file, check=True)
    assert pq.read_table(tmp_path / "ledger.parquet") == whole
    piped = subprocess.run(command, capture_output=True, check=True).stdout
    assert polars.read_parquet(io.BytesIO(piped))["key"].to_list() == whole.column("key").to_pylist()


def test_a_reader_that_goes_away_ends_it_without_a_word(dataset: Path) -> None:
    command = f"{sys.executable} -m turbo_fetch ledger {dataset} --format jsonl | head -c 10"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--outcome", "http-4x"], "did you mean 'http-4xx'?"),
        (["--columns", "key,statuss"], "--columns 'statuss': unknown"),
        (["--shard", "9"], "there is no finished shard 9"),
        (["--limit", str(1 << 70)], "--limit"),
        (["--columns", "key,key"], "expected each column once"),
        (["--columns", ""], "--columns ''"),
        (["--host", ""], "--host ''"),
        (["--host", "http://127.0.0.1/"], "without scheme or port"),
        (["--host", "127.0.0.1:80"], "without scheme or port"),
        (["--host", "*.1"], "without scheme or port"),
    ],
)
def test_what_is_unknown_is_told(dataset: Path, options: list[str], says: str) -> None:
    ended = CliRunner().invoke(app, ["ledger", str(dataset), *options])
    assert (ended.exit_code, says in ended.stderr) == (2, True), ended.output


def test_a_process_that_has_read_a_dataset_ends_by_itself(dataset: Path) -> None:
    code = (
        "import sys, turbo_fetch\n"
        "opened = turbo_fetch.open_dataset(sys.argv[1])\n"
        "opened.ledger(opened.shards[0])\n"
        "raise SystemExit(3)"
    )
    # A thread of Arrow that let go of a Python file at the end of one in six such processes ended it with SIGABRT.
    codes = [
        subprocess.run([sys.executable, "-c", code, str(dataset)], check=False).returncode for _ in range(8)
    ]
    assert codes == [3] * 8


def test_python_has_samples_rows_and_the_ledger(dataset: Path) -> None:
    opened = turbo_fetch.open_dataset(str(dataset))
    found = dict(zip(*(opened.ledger().column(name).to_pylist() for name in ("key", "outcome")), strict=True))
    assert {key: outcome for key, outcome in found.items() if outcome != "success"} == FAILED
    assert [sample.key for sample in opened.samples()] == [key for key in found if key not in FAILED]
    assert Counter(opened.metadata().column("status").to_pylist()) == {"success": 6, "failed_to_download": 2}
    assert (opened.rows, len(opened.shards), opened.format) == (8, 2, "webdataset")
