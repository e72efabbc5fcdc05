"""Whole jobs against the faulty origin: every row accounted for, the same bytes every time."""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

import turbo_fetch
from album import album, encoded
from jobs import content_hashes, job_spec, ledger, manifest, write_list
from origin import Origin
from turbo_fetch.arrow.schemas import RESULTS
from turbo_fetch.dataset.description import load_spec
from turbo_fetch.errors import InputError, OutputError, OutputExists
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spool.spool import Spool

ALBUM = album(130)
"""Two whole shards of 50 rows and a part of one."""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(
        {**ALBUM, "text.jpg": b"<html>not an image</html>", "tiny.png": encoded(1, 1, 0, "PNG")}
    ) as origin:
        yield origin


@pytest.fixture(scope="module")
def urls(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_list(tmp_path_factory.mktemp("list") / "list.parquet", [origin.url(name) for name in ALBUM])


def test_a_list_becomes_a_dataset_with_every_row_accounted_for(urls: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = turbo_fetch.run(job_spec(urls, output)).fetch

    assert (summary.rows, summary.successes, summary.shards) == (130, 130, 3)
    assert [record["rows"] for record in manifest(output)] == [50, 50, 30]
    assert [row["url"] for row in ledger(output)] == pq.read_table(urls)["url"].to_pylist()
    with tarfile.open(output / "00002.tar") as tar:
        names = tar.getnames()
    assert names[:3] == ["0000200.jpg", "0000200.json", "0000200.txt"]
    assert len(names) == 90
    assert not list((output / ".turbo-fetch").glob("*.spool"))
    assert load_spec(output / ".turbo-fetch/spec.toml") == job_spec(urls, output)


def test_faults_end_in_their_outcomes_and_no_row_is_lost(origin: Origin, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], set[str]]] = [
        ("truncated", {}, {"truncated"}),
        ("reset_in_body", {}, {"truncated", "connect"}),
        ("reset_before_headers", {}, {"connect"}),
        ("redirect_loop", {}, {"redirect"}),
        ("redirect", {"hops": 3}, {"success"}),
        ("garbage", {}, {"protocol"}),
        ("endless", {}, {"too-large"}),
        ("chunked", {}, {"success"}),
        ("chunked_without_end", {}, {"truncated"}),
        ("dribble", {}, {"timeout"}),
        ("status", {"code": 404}, {"http-4xx"}),
        ("status", {"code": 500}, {"http-5xx"}),
        ("status", {"code": 503, "retry_after": 0, "times": 2}, {"success"}),
        ("status", {"code": 429, "retry_after": 1, "times": 1}, {"success"}),
        ("robots", {"tag": "noai"}, {"opt-out"}),
    ]
    names = list(ALBUM)
    rows = [
        origin.url(name, fault, **parameters)
        for name, (fault, parameters, _) in zip(names, cases, strict=False)
    ]
    expected = [outcomes for *_, outcomes in cases]
    odd: list[tuple[str | None, set[str]]] = [
        (None, {"url"}),
        ("not a url", {"url"}),
        ("ftp://127.0.0.1/x.jpg", {"url"}),
        ("http://127.0.0.1:1/refused.jpg", {"connect"}),
        ("http://no-such-host.invalid/x.jpg", {"no-such-host", "dns"}),
        (origin.url("missing.jpg"), {"http-4xx"}),
        (origin.url("text.jpg"), {"not-an-image"}),
        (origin.url("tiny.png"), {"success"}),
    ]
    urls = write_list(tmp_path / "list.parquet", [*rows, *(url for url, _ in odd)])
    http = {"timeout_s": 1.5, "stall_timeout_s": 1, "max_body_mb": 1, "ports": "any"}
    summary = turbo_fetch.run(job_spec(urls, tmp_path / "out", http=http)).fetch

    found = ledger(tmp_path / "out")
    assert len(found) == summary.rows == len(cases) + len(odd)
    for row, outcomes in zip(found, [*expected, *(outcomes for _, outcomes in odd)], strict=True):
        assert row["outcome"] in outcomes, row
    metadata = pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    statuses = Counter(row["status"] for row in metadata)
    assert statuses["success"] == summary.successes == summary.outcomes["success"]
    assert metadata[10]["error_message"] == "HTTP Error 404: Not Found"


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": {"workers": 3, "threads": 1}},
        {"http": {"concurrency": 1}},
        {"http": {"concurrency": 500, "memory_mb": 1}},
    ],
)
def test_the_same_bytes_whatever_the_workers_and_the_order(
    urls: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    turbo_fetch.run(job_spec(urls, tmp_path / "one"))
    turbo_fetch.run(job_spec(urls, tmp_path / "other", **changes))
    assert content_hashes(tmp_path / "one") == content_hashes(tmp_path / "other") != {}


def test_a_second_run_fetches_nothing_again(urls: Path, origin: Origin, tmp_path: Path) -> None:
    spec = job_spec(urls, tmp_path / "out")
    turbo_fetch.run(spec)
    hits = origin.hits.total()
    summary = turbo_fetch.run(spec).fetch
    assert origin.hits.total() == hits
    assert (summary.rows, summary.successes, summary.run_rows) == (130, 130, 0)


@pytest.mark.parametrize("output_format", ["files", "parquet", "dummy"])
def test_other_formats_account_for_every_row_too(urls: Path, tmp_path: Path, output_format: str) -> None:
    output = tmp_path / "out"
    summary = turbo_fetch.run(job_spec(urls, output, output={"format": output_format})).fetch
    assert summary.successes == 130
    assert len(ledger(output)) == 130
    assert pq.read_table(output / "00001.parquet").num_rows == 50


def test_a_changed_spec_is_refused_with_the_difference(urls: Path, tmp_path: Path) -> None:
    turbo_fetch.run(job_spec(urls, tmp_path / "out"))
    before = content_hashes(tmp_path / "out")
    with pytest.raises(OutputExists, match=r"fetch\.image\.size was 64, is now 32"):
        turbo_fetch.run(job_spec(urls, tmp_path / "out", image={"size": 32}))
    assert content_hashes(tmp_path / "out") == before


def test_a_run_that_failed_before_its_first_row_binds_nobody(urls: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(InputError, match="nowhere"):
        turbo_fetch.run(job_spec(urls, output, deny={"hashes": [str(tmp_path / "nowhere.txt")]}))
    assert (output / ".turbo-fetch/job").exists()
    # As if it had been killed when its first shard was open.
    Spool.open(output / ".turbo-fetch/00000.spool", 0, 50, "of rows for images of 64 pixels").close()
    assert turbo_fetch.run(job_spec(urls, output, image={"size": 32})).fetch.rows == 130


def test_a_run_that_was_stopped_within_its_first_shard_binds(urls: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    turbo_fetch.run(job_spec(urls, output))
    for path in output.glob("0*"):
        path.unlink()
    row = {"row": 0, "outcome": 0, "image": b"x", "retryable": False, "attempts": 1}
    spool = Spool.open(output / ".turbo-fetch/00000.spool", 0, 50, "of rows for images of 64 pixels")
    spool.append(pa.RecordBatch.from_pylist([row], schema=RESULTS))
    spool.close()
    with pytest.raises(OutputExists, match=r"fetch\.image\.size was 64, is now 32"):
        turbo_fetch.run(job_spec(urls, output, image={"size": 32}))


def test_a_change_that_leaves_no_trace_is_accepted(urls: Path, tmp_path: Path) -> None:
    turbo_fetch.run(job_spec(urls, tmp_path / "out"))
    assert turbo_fetch.run(job_spec(urls, tmp_path / "out", http={"concurrency": 3})).fetch.rows == 130


def test_a_changed_list_is_refused(origin: Origin, tmp_path: Path) -> None:
    names = list(ALBUM)
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in names[:60]])
    turbo_fetch.run(job_spec(urls, tmp_path / "out"))
    write_list(urls, [origin.url(name) for name in names[1:61]])
    with pytest.raises(OutputExists, match=r"list\.parquet"):
        turbo_fetch.run(job_spec(urls, tmp_path / "out"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("is_complete", [True, False])
def test_a_list_that_changed_in_its_middle_is_refused(
    origin: Origin, tmp_path: Path, suffix: str, is_complete: bool
) -> None:
    """Of the same length, and with the same bytes at its start and end."""
    listed = tmp_path / f"list.{suffix}"
    padding = ["x" * 6000] * len(ALBUM)
    table = pa.table({"before": padding, "url": [origin.url(name) for name in ALBUM], "after": padding})
    if suffix == "csv":
        pacsv.write_csv(table, listed)
    else:
        pq.write_table(table, listed, compression="none", use_dictionary=False, write_statistics=False)
    spec = job_spec(listed, tmp_path / "out", input={"caption_column": None})
    turbo_fetch.run(spec)
    if not is_complete:
        (tmp_path / "out" / "00002_stats.json").unlink()
    content = listed.read_bytes()
    # Read elsewhere and never changed, it is the same list.
    listed.unlink()
    listed.write_bytes(content)
    summary = turbo_fetch.run(spec).fetch
    assert (summary.rows, summary.was_complete) == (130, is_complete)
    whole = content_hashes(tmp_path / "out")
    name = list(ALBUM)[len(ALBUM) // 2].encode()
    assert content.count(name) == 1
    listed.write_bytes(content.replace(name, b"9" + name[1:]))
    with pytest.raises(OutputExists, match="shard 1 was made from other rows"):
        turbo_fetch.run(spec)
    assert content_hashes(tmp_path / "out") == whole


def test_a_list_that_changes_while_it_is_read_is_told(origin: Origin, tmp_path: Path) -> None:
    listed = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
    other = write_list(tmp_path / "other.parquet", [origin.url(name) for name in reversed(ALBUM)])

    class Meddler(ProgressListener):
        def shard_done(self, rows: int, resumed: bool) -> None:
            if other.exists():
                other.replace(listed)

    with pytest.raises(OutputExists, match="the list has changed since"):
        turbo_fetch.run(job_spec(listed, tmp_path / "out"), Meddler())


def test_a_list_with_a_column_of_another_type_does_not_extend_a_dataset(
    origin: Origin, tmp_path: Path
) -> None:
    rows = [origin.url(name) for name in list(ALBUM)[:4]]
    keep = {"keep_columns": ["n"]}
    first = write_list(tmp_path / "first.parquet", rows, n=[1, 2, 3, 4])
    turbo_fetch.run(job_spec(first, tmp_path / "out", input=keep))
    before = content_hashes(tmp_path / "out"), (tmp_path / "out" / ".turbo-fetch/job").read_bytes()
    second = write_list(tmp_path / "second.parquet", rows, n=["a", "b", "c", "d"])
    with pytest.raises(InputError, match="'n' has the type string, and int64 in the shards"):
        turbo_fetch.run(job_spec(second, tmp_path / "out", input=keep, output={"if_exists": "extend"}))
    assert (content_hashes(tmp_path / "out"), (tmp_path / "out" / ".turbo-fetch/job").read_bytes()) == before


def test_extend_adds_another_list_once(origin: Origin, tmp_path: Path) -> None:
    names = list(ALBUM)
    first = write_list(tmp_path / "first.parquet", [origin.url(name) for name in names[:60]])
    second = write_list(tmp_path / "second.parquet", [origin.url(name) for name in names[60:]])
    extend = {"if_exists": "extend"}
    turbo_fetch.run(job_spec(first, tmp_path / "out"))
    assert turbo_fetch.run(job_spec(second, tmp_path / "out", output=extend)).fetch.rows == 130
    assert turbo_fetch.run(job_spec(second, tmp_path / "out", output=extend)).fetch.run_rows == 0
    assert [record["shard"] for record in manifest(tmp_path / "out")] == [0, 1, 2, 3]
    assert [row["url"] for row in ledger(tmp_path / "out")] == [origin.url(name) for name in names]


def test_extend_with_another_choice_of_rows_is_refused_with_what_extend_takes(
    urls: Path, tmp_path: Path
) -> None:
    turbo_fetch.run(job_spec(urls, tmp_path / "out", input={"where": "caption != 'image 1'"}))
    other = job_spec(urls, tmp_path / "out", input={"where": "caption != ''"}, output={"if_exists": "extend"})
    with pytest.raises(OutputExists, match=r"input\.where was (?s:.*)whose rows are read, chosen"):
        turbo_fetch.run(other)


def test_overwrite_replaces_only_what_a_run_made(urls: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    turbo_fetch.run(job_spec(urls, output))
    (output / "notes.txt").write_text("mine")
    summary = turbo_fetch.run(
        job_spec(urls, output, output={"if_exists": "overwrite", "samples_per_shard": 130})
    ).fetch
    assert (summary.shards, summary.run_rows) == (1, 130)
    assert not (output / "00001.tar").exists()
    assert (output / "notes.txt").read_text() == "mine"


def test_error_refuses_an_existing_dataset(urls: Path, tmp_path: Path) -> None:
    spec = job_spec(urls, tmp_path / "out", output={"if_exists": "error"})
    turbo_fetch.run(spec)
    with pytest.raises(OutputExists, match="out"):
        turbo_fetch.run(spec)


def test_a_missing_list_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.parquet"):
        turbo_fetch.run(job_spec(tmp_path / "nowhere.parquet", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_wrong_column_is_named_with_the_nearest(urls: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"capton.*caption"):
        turbo_fetch.run(job_spec(urls, tmp_path / "out", input={"caption_column": "capton"}))


def test_an_output_that_cannot_be_written_is_told_before_any_request(
    urls: Path, origin: Origin, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    hits = origin.hits.total()
    with pytest.raises(OutputError, match="file"):
        turbo_fetch.run(job_spec(urls, tmp_path / "file" / "out"))
    assert origin.hits.total() == hits


async def test_arun_leaves_the_loop_free(urls: Path, tmp_path: Path) -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    async with asyncio.TaskGroup() as group:
        beating = group.create_task(beat())
        summary = (await turbo_fetch.arun(job_spec(urls, tmp_path / "out"))).fetch
        beating.cancel()
    assert summary.successes == 130
    assert beats > 10


async def test_cancelling_arun_saves_what_arrived_and_a_run_goes_on(origin: Origin, tmp_path: Path) -> None:
    names = list(ALBUM)
    rows = [origin.url(name) for name in names[:20]] + [origin.url(names[20], "slow_headers", times=1)]
    spec = job_spec(write_list(tmp_path / "list.parquet", rows), tmp_path / "out")
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Halting(ProgressListener):
        seen = 0

        def add(self, worker: int, tally: Any) -> None:
            self.seen += tally.rows
            if self.seen == 20:
                loop.call_soon_threadsafe(arrived.set)

    running = asyncio.create_task(turbo_fetch.arun(spec, Halting()))
    await arrived.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    hits = origin.hits.total()
    summary = (await turbo_fetch.arun(spec)).fetch
    assert (summary.successes, summary.run_rows) == (21, 1)
    assert origin.hits.total() == hits + 1


def test_stats_have_the_keys_of_img2dataset(urls: Path, tmp_path: Path) -> None:
    turbo_fetch.run(job_spec(urls, tmp_path / "out"))
    stats = json.loads((tmp_path / "out" / "00000_stats.json").read_text())
    assert {
        "count",
        "successes",
        "failed_to_download",
        "failed_to_resize",
        "duration",
        "start_time",
        "end_time",
        "status_dict",
    } <= stats.keys()
    assert (stats["count"], stats["successes"]) == (50, 50)


def test_a_second_look_says_complete_without_a_request_and_loses_nothing(
    origin: Origin, urls: Path, tmp_path: Path
) -> None:
    spec = job_spec(urls, tmp_path / "out")
    assert "complete" not in turbo_fetch.run(spec).text()
    metrics = (tmp_path / "out" / ".turbo-fetch/metrics").read_bytes()
    before = content_hashes(tmp_path / "out")
    hits = origin.hits.total()
    summary = turbo_fetch.run(spec).fetch
    assert "this run  nothing to do: the dataset is complete" in summary.text()
    assert (summary.rows, summary.successes, summary.run_rows) == (130, 130, 0)
    assert origin.hits.total() == hits
    assert (tmp_path / "out" / ".turbo-fetch/metrics").read_bytes() == metrics
    assert content_hashes(tmp_path / "out") == before
    assert "Throughput" in (tmp_path / "out" / "report.html").read_text()


def test_a_shard_that_is_gone_is_made_anew_though_the_dataset_was_complete(
    urls: Path, tmp_path: Path
) -> None:
    spec = job_spec(urls, tmp_path / "out")
    turbo_fetch.run(spec)
    before = content_hashes(tmp_path / "out")
    (tmp_path / "out" / "00001_stats.json").unlink()
    assert turbo_fetch.run(spec).fetch.run_rows == 50
    assert content_hashes(tmp_path / "out") == before
    assert turbo_fetch.run(spec).fetch.was_complete


def test_each_list_of_a_dataset_is_complete_by_itself(origin: Origin, urls: Path, tmp_path: Path) -> None:
    turbo_fetch.run(job_spec(urls, tmp_path / "out"))
    more = write_list(tmp_path / "more.parquet", [origin.url(name) for name in list(ALBUM)[:10]])
    extend = job_spec(more, tmp_path / "out", output={"if_exists": "extend"})
    assert turbo_fetch.run(extend).fetch.run_rows == 10
    assert turbo_fetch.run(extend).fetch.was_complete
    assert turbo_fetch.run(job_spec(urls, tmp_path / "out")).fetch.was_complete
