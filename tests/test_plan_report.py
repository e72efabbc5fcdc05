"""Plan: rows, shards and hosts without a request, quickly also for a long list."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs import job_spec, write_list
from origin import Origin
from turbo_fetch.cli.commands import app
from turbo_fetch.spec import FetchSpec, ImageSpec, InputSpec, OutputSpec
from turbo_fetch.spec.specfile import dump_spec
from turbo_fetch.stages.plan import picture_bytes, plan_run, time_limits


def test_a_plan_counts_and_sends_nothing(tmp_path: Path) -> None:
    with Origin({}) as origin:
        rows = [origin.url(f"{row}.jpg") for row in range(80)] + [
            f"http://a.b.example/{row}" for row in range(19)
        ]
        spec = job_spec(write_list(tmp_path / "l.parquet", [*rows, None]), tmp_path / "out")
        planned = plan_run(spec)
        assert not origin.hits
        assert origin.connections == 0
    assert (planned.rows, planned.rows_are_estimated, planned.shards) == (100, False, 2)
    assert (planned.domains, planned.unusable) == (2, 1)
    assert planned.top_domains == {"127.0.0.1": 0.8, "b.example": 0.19}
    assert not (tmp_path / "out").exists()


def test_a_list_of_ten_million_rows_takes_a_moment(tmp_path: Path) -> None:
    urls = pa.array([f"http://h{row % 977}.example/{row}.jpg" for row in range(20_000)])
    # Repeated by dictionary, so that the file is made in a second.
    table = pa.table(
        {"url": pa.DictionaryArray.from_arrays(np.arange(1_000_000, dtype=np.int32) % 20_000, urls)}
    )
    with pq.ParquetWriter(tmp_path / "l.parquet", table.schema) as writer:
        for _ in range(10):
            writer.write_table(table)
    spec = job_spec(tmp_path / "l.parquet", tmp_path / "out", input={"caption_column": None})
    started_s = time.process_time()
    planned = plan_run(spec)
    assert time.process_time() - started_s < 5
    assert (planned.rows, planned.shards, planned.domains) == (10_000_000, 200_000, 977)


def test_a_long_text_list_is_estimated_from_its_start(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("".join(f"http://h.example/{row:07d}.jpg\n" for row in range(400_000)))
    planned = plan_run(job_spec(tmp_path / "l.txt", tmp_path / "out", input={"caption_column": None}))
    assert planned.rows_are_estimated
    assert abs(planned.rows / 400_000 - 1) < 0.05
    assert "about 4" in planned.text() or "about 3" in planned.text()


def test_the_tightest_limit_gives_the_time() -> None:
    fetch = FetchSpec(input=InputSpec(urls="x"), output=OutputSpec(path="y"))
    limits = time_limits(fetch, 1_000_000, 0.5, workers=2)
    assert limits["the largest domain (fetch.http.per_domain)"] == pytest.approx(500_000 * 0.5 / 16)
    assert limits["the requests in flight (fetch.http.concurrency)"] == pytest.approx(1_000_000 * 0.5 / 512)
    assert picture_bytes(ImageSpec(size=(100, 50), encode="png", quality=6)) == 10_000


def test_the_command_prints_lines_or_json(tmp_path: Path) -> None:
    spec = job_spec(write_list(tmp_path / "l.parquet", ["http://a.example/1.jpg"]), tmp_path / "out")
    (tmp_path / "s.toml").write_text(dump_spec(spec))
    lines = CliRunner().invoke(app, ["plan", str(tmp_path / "s.toml")])
    assert lines.exit_code == 0, lines.output
    assert "1 rows in 1 files" in lines.stdout
    assert "no request was sent" in lines.stdout
    found = json.loads(CliRunner().invoke(app, ["plan", str(tmp_path / "s.toml"), "--json"]).stdout)
    assert found["top_domains"] == {"a.example": 1.0}
    bad = CliRunner().invoke(app, ["plan", str(tmp_path / "s.toml"), "--set", "fetch.input.url_column=urll"])
    assert bad.exit_code == 2
