"""What was odd about a list: counted from the reader to the report, and nothing of a dataset lost on the way."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import turbo_fetch
from album import album
from jobs import Silent, job_spec, ledger, manifest
from origin import Origin
from turbo_fetch.dataset.description import load_spec
from turbo_fetch.errors import InputError, OutputExists
from turbo_fetch.img2dataset import download
from turbo_fetch.maintenance.export import Export, export
from turbo_fetch.maintenance.retry import retry
from turbo_fetch.maintenance.verify import verify
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import EngineSpec
from turbo_fetch.stop import StopRequest

ALBUM = album(40)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(dict(ALBUM)) as origin:
        yield origin


def metadata(output: Path) -> list[dict[str, Any]]:
    shards = sorted(path for path in output.glob("*.parquet"))
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


def messy(origin: Origin, path: Path) -> tuple[Path, list[str]]:
    """Write a list of 40 images with stray quotes, ragged rows and bytes that are no UTF-8."""
    urls = [origin.url(name) for name in ALBUM]
    lines = [f"the image {number},{url},{number}" for number, url in enumerate(urls)]
    lines[3] = f'"Mind the gap,{urls[3]},3'
    lines[9] = f'a screen of 12",{urls[9]},9'
    lines[12] = f'"two\nlines",{urls[12]},12'
    lines[20] = f"short,{urls[20]}"
    lines[25] = f"long,{urls[25]},25,26"
    text = "\n".join(["caption,url,width", *lines]).encode().replace(b"image 30", b"pictur\xe9 30")
    path.write_bytes(text)
    return path, urls


def test_a_messy_list_becomes_a_dataset_of_all_its_rows(origin: Origin, tmp_path: Path) -> None:
    path, urls = messy(origin, tmp_path / "list.csv")
    spec = job_spec(
        path,
        tmp_path / "out",
        input={"keep_columns": {"width": "list_width"}},
        output={"samples_per_shard": 15},
    )
    summary = turbo_fetch.run(spec).fetch

    assert (summary.rows, summary.successes) == (40, 39)
    rows = metadata(tmp_path / "out")
    usable = [url for number, url in enumerate(urls) if number != 25]
    assert [row["url"] for row in rows if row["status"] == "success"] == usable
    assert rows[3]["caption"] == '"Mind the gap'
    assert rows[9]["caption"] == 'a screen of 12"'
    assert rows[12]["caption"] == "two\nlines"
    assert rows[30]["caption"] == "the pictur\ufffd 30"
    assert [row["list_width"] for row in rows] == [None if n in {20, 25} else n for n in range(40)]
    assert not any("http" in (row["caption"] or "") for row in rows)
    assert [row["url"] for row in ledger(tmp_path / "out")][:20] == urls[:20]

    text = summary.text()
    for sentence in (
        "1 row: a quote at the start of a field was taken as text (first: ",
        "1 row: too few fields; the missing ones are null",
        "1 row: too many fields, so no usable URL",
        "1 row: bytes that are not UTF-8 became U+FFFD",
    ):
        assert sentence in text
    assert f"{path}, line 5)" in text
    assert "too few fields; the missing ones are null" in (tmp_path / "out" / "report.html").read_text()
    counted = [record.get("list_notes", {}) for record in manifest(tmp_path / "out")]
    assert sum("quotes" in notes for notes in counted) == 1

    again = turbo_fetch.run(spec).fetch
    assert again.list_notes.counts == {
        kind: (rows, first) for kind, (rows, first) in summary.list_notes.counts.items()
    }


def test_strict_refuses_a_messy_list_before_the_first_request(origin: Origin, tmp_path: Path) -> None:
    path, _ = messy(origin, tmp_path / "list.csv")
    before = origin.hits.total()
    with pytest.raises(InputError, match=r"1 row: .*line 5.*fetch\.input\.strict = true"):
        turbo_fetch.run(job_spec(path, tmp_path / "out", input={"strict": True}))
    assert origin.hits.total() == before


@pytest.mark.parametrize("output_format", ["webdataset", "parquet_bytes", "tfrecord"])
def test_renamed_columns_pass_through_all_that_is_done_with_a_dataset(
    origin: Origin, tmp_path: Path, output_format: str
) -> None:
    urls = [origin.url(name) for name in list(ALBUM)[:4]]
    urls[2] = origin.url(list(ALBUM)[2]).replace("127.0.0.1", "127.0.0.1:1/x#")
    columns = {"url": urls, "caption": ["a"] * 4, "width": [1, 2, 3, 4], "status": ["s", None, "t", "u"]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    keep = {"width": "coyo_width", "status": "licence"}
    spec = job_spec(
        tmp_path / "list.parquet",
        tmp_path / "out",
        input={"keep_columns": keep},
        output={"format": output_format},
    )
    turbo_fetch.run(spec)
    assert load_spec(tmp_path / "out" / ".turbo-fetch/spec.toml").fetch == spec.fetch
    stop = StopRequest()
    retry(spec, ProgressListener(), stop)
    assert verify(str(tmp_path / "out"), "deep", EngineSpec(workers=1), Silent(), stop).problems == []
    export(Export(str(tmp_path / "out"), str(tmp_path / "again"), "webdataset"), Silent(), stop)
    for folder in ("out", "again"):
        rows = metadata(tmp_path / folder)
        assert [(row["coyo_width"], row["licence"]) for row in rows] == [
            (1, "s"),
            (2, None),
            (3, "t"),
            (4, "u"),
        ]
        assert [row["status"] for row in rows] == ["success", "success", "failed_to_download", "success"]
        assert {row["width"] for row in rows} == {64, None}
    other = job_spec(
        tmp_path / "list.parquet",
        tmp_path / "out",
        input={"keep_columns": {"status": "licence", "width": "coyo_width"}},
        output={"format": output_format},
    )
    with pytest.raises(OutputExists, match="keep_columns was"):
        turbo_fetch.run(other)


def test_notes_of_a_parquet_list_come_from_the_workers(origin: Origin, tmp_path: Path) -> None:
    urls = [origin.url(name) for name in list(ALBUM)[:30]]
    captions = pa.array([b"caf\xe9" if n == 21 else b"x" for n in range(30)])
    pq.write_table(
        pa.table({"url": urls, "caption": captions, "n": list(range(30))}), tmp_path / "list.parquet"
    )
    spec = job_spec(
        tmp_path / "list.parquet",
        tmp_path / "out",
        input={"keep_columns": ["n"], "column_types": {"n": "bool"}},
        output={"samples_per_shard": 10},
    )
    summary = turbo_fetch.run(spec).fetch
    assert summary.list_notes.counts["undecodable"] == (1, f"{tmp_path / 'list.parquet'}, row 22")
    assert len(summary.list_notes.counts) == 1


def test_json_lines_that_are_no_objects_are_counted(origin: Origin, tmp_path: Path) -> None:
    lines = [json.dumps({"url": origin.url(name), "caption": "x"}) for name in list(ALBUM)[:5]]
    lines[2] = lines[2][:-1]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    summary = turbo_fetch.run(job_spec(tmp_path / "list.jsonl", tmp_path / "out")).fetch
    assert (summary.rows, summary.successes) == (5, 4)
    assert "1 row: not a JSON object, so no usable URL" in summary.text()


def test_the_drop_in_loses_no_row_to_a_stray_quote(origin: Origin, tmp_path: Path) -> None:
    path, _ = messy(origin, tmp_path / "list.csv")
    with path.open(newline="", encoding="latin-1") as file:
        assert len(list(csv.reader(file))) < 41
    summary = download(
        url_list=str(path),
        input_format="csv",
        caption_col="caption",
        output_folder=str(tmp_path / "out"),
        processes_count=1,
        overrides=["fetch.http.allow_private_addresses=true"],
    )
    assert (summary.rows, summary.successes) == (40, 39)
