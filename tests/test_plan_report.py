"""Plan: rows, shards and hosts without a request, quickly also for a long list."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import turbo_fetch
from album import album
from jobs import job_spec, write_list
from origin import Origin
from turbo_fetch.cli.commands import app
from turbo_fetch.spec import DomainSpec, FetchSpec, HttpSpec, ImageSpec, InputSpec, OutputSpec
from turbo_fetch.spec.specfile import dump_spec
from turbo_fetch.stages.plan import picture_bytes, plan_run
from turbo_fetch.stages.time_estimate import MachineSpeed, tightest, time_limits


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


@pytest.mark.usefixtures("no_collections")
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


def test_a_plan_tells_the_space_that_is_free_and_whether_it_is_enough(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "l.parquet", ["http://h.example/1.jpg"] * 1000)
    small = plan_run(job_spec(urls, tmp_path / "new" / "out"))
    assert small.free_bytes.keys() == {str(tmp_path / "new" / "out")}
    assert abs(small.free_bytes[small.path] - shutil.disk_usage(tmp_path).free) < 10**9
    assert "shortage" not in small.text()
    spool = tmp_path / "spool"
    remote = job_spec(urls, tmp_path / "out", output={"path": "memory://bucket/out", "spool": str(spool)})
    assert [Path(name).parent for name in plan_run(remote).free_bytes] == [spool]
    large = dataclasses.replace(small, dataset_bytes=10**15)
    assert "shortage  the dataset needs about 1.0 PB" in large.text()


def test_a_long_text_list_is_estimated_from_its_start(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("".join(f"http://h.example/{row:07d}.jpg\n" for row in range(400_000)))
    planned = plan_run(job_spec(tmp_path / "l.txt", tmp_path / "out", input={"caption_column": None}))
    assert planned.rows_are_estimated
    assert abs(planned.rows / 400_000 - 1) < 0.05
    assert "about 4" in planned.text() or "about 3" in planned.text()


def test_the_limit_of_a_domain_holds_for_all_workers_together() -> None:
    fetch = FetchSpec(
        input=InputSpec(urls="x"),
        output=OutputSpec(path="y"),
        http=HttpSpec(per_domain=8, domains={"slow.example": DomainSpec(concurrency=1, delay_s=2)}),
    )
    domains = {"large.example": 0.5, "slow.example": 0.1}
    limits = time_limits(fetch, 1_000_000, domains, 2, 4, MachineSpeed(0.001, 1.0))
    assert limits["the domain large.example (fetch.http.per_domain)"] == pytest.approx((6250, 62_500))
    assert limits["the domain slow.example (fetch.http.per_domain)"] == pytest.approx((200_000, 200_000))
    assert limits["the requests in flight (fetch.http.concurrency)"] == pytest.approx((195.3, 1953), rel=0.01)
    assert limits["the processor"] == pytest.approx((125, 2800))
    assert tightest(limits)[0] == "the domain slow.example (fetch.http.per_domain)"


def test_images_are_as_large_as_their_format_makes_them() -> None:
    assert picture_bytes(ImageSpec(size=(100, 50), encode="png", quality=6)) == 10_000


MANY_HOSTS = [f"127.0.{number // 50}.{number % 50 + 1}" for number in range(60)]


@pytest.mark.parametrize(
    ("hosts", "http", "limited_by"),
    [
        (["127.0.0.1"], {"per_domain": 4}, "the domain 127.0.0.1"),
        (MANY_HOSTS, {"per_domain": 4}, "the requests in flight"),
        (
            ["127.0.0.1"],
            {"per_domain": 1, "domains": {"127.0.0.1": {"delay_s": 0.05}}},
            "the domain 127.0.0.1",
        ),
    ],
)
def test_a_run_takes_as_long_as_was_planned(
    tmp_path: Path, hosts: list[str], http: dict[str, Any], limited_by: str
) -> None:
    images = album(60, side=64)
    with Origin(images, address="0.0.0.0", latency_s=0.15) as origin:
        port = origin.base.rpartition(":")[2]
        rows = [f"http://{hosts[row % len(hosts)]}:{port}/{name}" for row, name in enumerate(images)]
        urls = write_list(tmp_path / "l.parquet", rows)
        spec = job_spec(urls, tmp_path / "out", http={"concurrency": 8, **http}, engine={"workers": 1})
        planned = plan_run(spec)
        taken_s: list[float] = []
        # Whatever else the machine does may take its time, now and then.
        while not taken_s or (taken_s[-1] >= planned.most_s * 1.5 and len(taken_s) < 5):
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            started_s = time.monotonic()
            assert turbo_fetch.run(spec).fetch.successes == len(rows)
            taken_s.append(time.monotonic() - started_s)
    assert planned.limited_by.startswith(limited_by)
    assert planned.least_s / 1.5 < taken_s[-1] < planned.most_s * 1.5, taken_s


def test_the_command_prints_lines_or_json(tmp_path: Path) -> None:
    spec = job_spec(write_list(tmp_path / "l.parquet", ["http://a.example/1.jpg"]), tmp_path / "out")
    (tmp_path / "s.toml").write_text(dump_spec(spec))
    lines = CliRunner().invoke(app, ["plan", str(tmp_path / "s.toml")])
    assert lines.exit_code == 0, lines.output
    assert "1 row in 1 file" in lines.stdout
    assert "no request was sent" in lines.stdout
    found = json.loads(CliRunner().invoke(app, ["plan", str(tmp_path / "s.toml"), "--json"]).stdout)
    assert found["top_domains"] == {"a.example": 1.0}
    bad = CliRunner().invoke(app, ["plan", str(tmp_path / "s.toml"), "--set", "fetch.input.url_column=urll"])
    assert bad.exit_code == 2
