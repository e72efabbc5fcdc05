"""Captions of one URL over several rows, grouped into a list at the row that is requested."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import datasets
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import turbo_fetch
from album import album
from jobs import content_hashes, job_spec, ledger, write_list
from origin import Origin
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.duplicates.captions import LaterCaptions
from turbo_fetch.errors import OutputExists, SpecError
from turbo_fetch.spec import OutputFormat, Spec
from turbo_fetch.spec.specfile import parse_spec

ALBUM = album(4, 40)
ORDER = [0, 1, 0, 2, 0, 1, 3, 2, 0]
"""Which image each row of the list has; shards are of three rows."""
TOGETHER = {0: [0, 2, 4, 8], 1: [1, 5], 3: [3, 7], 6: [6]}
"""The rows whose captions each sample has."""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


def _grouped(spec: Spec, **input_changes: Any) -> Spec:
    tables = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    tables["fetch"]["duplicates"] = {"by": ["url"], "captions": "all"}
    tables["fetch"]["input"].update(input_changes)
    return parse_spec(tables)


def _urls(origin: Origin, folder: Path, **columns: Any) -> Path:
    # The same address after normalisation, which is what counts.
    ends = ["", "#a", "#b"]
    rows = [f"{origin.url(f'{image:05d}.jpg')}{ends[row % 3]}" for row, image in enumerate(ORDER)]
    return write_list(folder / "list.parquet", rows, **columns)


def _run(origin: Origin, folder: Path, /, **changes: Any) -> Path:
    changes["output"] = {"samples_per_shard": 3, **changes.get("output", {})}
    turbo_fetch.run(_grouped(job_spec(_urls(origin, folder), folder / "out", **changes)))
    return folder / "out"


def _captions(rows: list[int]) -> list[str]:
    return [f"image {row}" for row in rows]


@pytest.mark.parametrize("output_format", get_args(OutputFormat))
def test_a_sample_has_the_captions_of_all_rows_with_its_url(
    origin: Origin, tmp_path: Path, output_format: str
) -> None:
    out = _run(origin, tmp_path, output={"format": output_format})
    rows = open_dataset(str(out)).metadata().to_pylist()
    found = {row: rows[row]["captions"] for row in range(9) if rows[row]["status"] == "success"}
    assert found == {row: _captions(together) for row, together in TOGETHER.items()}
    assert [rows[row]["caption"] for row in range(9)] == _captions(list(range(9)))
    # Rows that are not requested keep what they have.
    assert rows[8]["captions"] == ["image 8"]
    assert ledger(out)[8]["outcome"] == "duplicate"
    if output_format != "dummy":
        samples = {sample.caption: sample.metadata["captions"] for sample in open_dataset(str(out)).samples()}
        assert samples == {f"image {row}": _captions(together) for row, together in TOGETHER.items()}
    verified = CliRunner().invoke(app, ["verify", str(out), "--deep", "--quiet"])
    assert verified.exit_code == 0, verified.stdout


@pytest.mark.usefixtures("others_may_warn")
def test_webdataset_and_hugging_face_read_the_list(origin: Origin, tmp_path: Path) -> None:
    out = _run(origin, tmp_path)
    tars = sorted(map(str, out.glob("*.tar")))
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    expected = list(map(_captions, TOGETHER.values()))
    assert [json.loads(sample["json"])["captions"] for sample in samples] == expected
    assert [sample["txt"].decode() for sample in samples] == [captions[0] for captions in expected]
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"), split="train")
    assert [row["json"]["captions"] for row in loaded.remove_columns("jpg")] == expected


@pytest.mark.parametrize("order", ["position", "spread"])
@pytest.mark.parametrize("listed", [False, True])
def test_a_retry_keeps_the_captions_whether_it_reads_the_list_or_not(
    origin: Origin, tmp_path: Path, order: str, listed: bool
) -> None:
    late = origin.url("00000.jpg", "status", code=503, times=1, of=f"{order}{listed}")
    rows = [late if image == 0 else origin.url(f"{image:05d}.jpg") for image in ORDER]
    urls = write_list(tmp_path / "list.parquet", rows, faces=["[]"] * 9)
    boxes = {"boxes_column": "faces"} if listed else {}
    output = {"samples_per_shard": 3}
    unlucky = job_spec(urls, tmp_path / "out", http={"retries": 0}, output=output)
    turbo_fetch.run(_grouped(unlucky, order=order, **boxes))
    assert "http-5xx" in {row["outcome"] for row in ledger(tmp_path / "out")}
    ended = CliRunner().invoke(app, ["retry", str(tmp_path / "out"), "--quiet", "--json"])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["recovered"] == 1
    turbo_fetch.run(_grouped(job_spec(urls, tmp_path / "lucky", output=output), order=order, **boxes))
    assert content_hashes(tmp_path / "out") == content_hashes(tmp_path / "lucky")
    captions = [sample.metadata["captions"] for sample in open_dataset(str(tmp_path / "out")).samples()]
    assert sorted(map(len, captions)) == [1, 2, 2, 4]


def test_a_second_run_and_other_workers_change_nothing(origin: Origin, tmp_path: Path) -> None:
    out = _run(origin, tmp_path)
    first = content_hashes(out)
    (out / "00001_stats.json").unlink()
    _run(origin, tmp_path)
    assert content_hashes(out) == first
    (tmp_path / "other").mkdir()
    engine = {"workers": 3, "threads": 1}
    assert content_hashes(_run(origin, tmp_path / "other", engine=engine)) == first
    assert {path.name for path in (out / ".turbo-fetch").rglob("*.sqlite")} <= {"documents.sqlite"}


def test_two_parts_of_a_list_make_what_one_run_makes(origin: Origin, tmp_path: Path) -> None:
    urls = _urls(origin, tmp_path)
    output = {"samples_per_shard": 3}
    for shards in ("0/2", "1/2"):
        spec = _grouped(job_spec(urls, tmp_path / "parts", output=output))
        turbo_fetch.run(spec.model_copy(update={"engine": spec.engine.model_copy(update={"shards": shards})}))
    assert content_hashes(tmp_path / "parts") == content_hashes(_run(origin, tmp_path))


def test_another_choice_does_not_go_on_with_the_dataset(origin: Origin, tmp_path: Path) -> None:
    _run(origin, tmp_path)
    tables = job_spec(tmp_path / "list.parquet", tmp_path / "out", output={"samples_per_shard": 3})
    with pytest.raises(OutputExists, match=r"fetch\.duplicates\.captions"):
        turbo_fetch.run(
            parse_spec(
                {
                    "fetch": {
                        **tables.model_dump(mode="json", exclude_none=True)["fetch"],
                        "duplicates": {"by": ["url"]},
                    }
                }
            )
        )


@pytest.mark.parametrize(
    ("duplicates", "listed", "message"),
    [
        ({"captions": "all"}, {}, 'expected by = \\["url"\\]'),
        ({"captions": "all", "by": ["url"]}, {}, "input.caption_column is not set"),
        (
            {"captions": "all", "by": ["url"]},
            {"caption_column": "text", "keep_columns": ["captions"]},
            "give it a new name",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    duplicates: dict[str, Any], listed: dict[str, Any], message: str
) -> None:
    fetch = {"input": {"urls": "x.csv", **listed}, "output": {"path": "out"}, "duplicates": duplicates}
    with pytest.raises(SpecError, match=message):
        parse_spec({"fetch": fetch})


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.text(max_size=4)), max_size=30))
def test_captions_come_back_by_their_original_in_the_order_of_the_list(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str | None]]
) -> None:
    first = 7 << 24
    kept = LaterCaptions(tmp_path_factory.getbasetemp() / "captions.sqlite")
    kept.add(
        [first + original for original, _ in rows], range(100, 100 + len(rows)), [text for _, text in rows]
    )
    kept.finish()
    for start, stop in ((0, 3), (3, 6)):
        wanted: dict[int, list[str]] = {}
        for original, text in rows:
            if start <= original < stop and text is not None:
                wanted.setdefault(original - start, []).append(text)
        assert kept.of(first + start, first + stop) == wanted
