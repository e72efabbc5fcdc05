"""`score`, `retry` and `refresh` of datasets with scores: as if a run had made them, and nothing is scored twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import turbo_fetch
from album import album, encoded
from jobs import content_hashes, job_spec, ledger, write_list
from origin import Origin
from scoring import BRIGHTNESS, COLUMNS, HELD, written
from turbo_fetch.cli.commands import app
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec

ALBUM = album(30, side=40)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which `HELD` notes the captions of its calls."""
    path = tmp_path / "calls"
    monkeypatch.setenv("CALLS", str(path))
    monkeypatch.setenv("HELD", str(tmp_path / "held"))
    return path


def _score(folder: Path, **keys: Any) -> dict[str, Any]:
    path = written(folder, BRIGHTNESS + HELD)
    return {"function": f"{path}:Held", "columns": COLUMNS, "batch_size": 5, **keys}


def _spec(urls: Path, output: Path, **changes: dict[str, Any]) -> Spec:
    return job_spec(urls, output, http={"retries": 0}, output={"samples_per_shard": 12}, **changes)


def _command(name: str, place: Path, *arguments: str) -> dict[str, Any]:
    ended = CliRunner().invoke(app, [name, str(place), "--quiet", "--json", *arguments])
    assert ended.exit_code == 0, ended.output
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def _scored(calls: Path) -> list[str]:
    return calls.read_text().replace("image ", "").split() if calls.exists() else []


def test_a_finished_dataset_that_is_scored_is_what_a_run_makes(
    origin: Origin, tmp_path: Path, calls: Path
) -> None:
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
    score = _score(tmp_path, where="brightness > 125")
    turbo_fetch.run(_spec(urls, tmp_path / "run", score=score), ProgressListener())
    turbo_fetch.run(_spec(urls, tmp_path / "out"), ProgressListener())
    hits = origin.hits.total()
    changes = [
        f"fetch.score.function={score['function']}",
        'fetch.score.columns={brightness = "float32", colour = "float16[3]"}',
        "fetch.score.where=brightness > 125",
        "fetch.score.batch_size=5",
    ]
    options = [option for change in changes for option in ("--set", change)]
    assert _command("score", tmp_path / "out", *options)["shards"] == 3
    assert origin.hits.total() == hits
    assert content_hashes(tmp_path / "out") == content_hashes(tmp_path / "run")
    outcomes = [row["outcome"] for row in ledger(tmp_path / "out")]
    assert outcomes == [row["outcome"] for row in ledger(tmp_path / "run")]
    assert "filtered" in outcomes
    # The dataset knows its function from now on: nothing is left to do.
    assert _command("score", tmp_path / "out")["shards"] == 0
    assert _command("verify", tmp_path / "out")["problems"] == []


def test_another_version_scores_a_dataset_again(origin: Origin, tmp_path: Path, calls: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
    spec = _spec(urls, tmp_path / "out", score=_score(tmp_path))
    turbo_fetch.run(spec, ProgressListener())
    other = _spec(urls, tmp_path / "out", score=_score(tmp_path, columns={**COLUMNS, "colour": "float32[3]"}))
    path = tmp_path / "other.toml"
    path.write_text(dump_spec(other))
    assert _command("score", path)["shards"] == 3
    assert str(pq.read_schema(tmp_path / "out" / "00000.parquet").field("colour").type).startswith(
        "fixed_size_list<"
    )
    assert len(_scored(calls)) == 60


def test_a_retry_scores_what_comes_now_and_nothing_else(origin: Origin, tmp_path: Path, calls: Path) -> None:
    rows = [origin.url(name) for name in ALBUM]
    rows[7] = origin.url("00007.jpg", "status", code=503, times=1)
    urls = write_list(tmp_path / "list.parquet", rows)
    score = _score(tmp_path, where="brightness > 125")
    turbo_fetch.run(_spec(urls, tmp_path / "out", score=score), ProgressListener())
    before = _scored(calls)
    assert "7" not in before
    filtered = [
        row for row in pq.read_table(tmp_path / "out" / "00000.parquet").to_pylist() if row["brightness"]
    ]
    assert _command("retry", tmp_path / "out")["recovered"] <= 1
    assert _scored(calls)[len(before) :] == ["7"]
    turbo_fetch.run(_spec(urls, tmp_path / "lucky", score=score), ProgressListener())
    assert content_hashes(tmp_path / "out") == content_hashes(tmp_path / "lucky")
    assert len(filtered) == 11


def test_a_refresh_scores_images_that_have_changed(origin: Origin, tmp_path: Path, calls: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
    spec = _spec(urls, tmp_path / "out", score=_score(tmp_path))
    turbo_fetch.run(spec, ProgressListener())
    before = pq.read_table(tmp_path / "out" / "00000.parquet")
    origin.pictures = {**ALBUM, "00003.jpg": encoded(90, 70, 999)}
    count = len(_scored(calls))
    _command("refresh", tmp_path / "out")
    assert len(_scored(calls)) == count
    _command("refresh", tmp_path / "out", "--apply")
    after = pq.read_table(tmp_path / "out" / "00000.parquet")
    changed = [
        row
        for row, (old, new) in enumerate(
            zip(before["brightness"].to_pylist(), after["brightness"].to_pylist(), strict=True)
        )
        if old != new
    ]
    assert changed == [3]


def test_an_export_keeps_scores(origin: Origin, tmp_path: Path, calls: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
    turbo_fetch.run(_spec(urls, tmp_path / "out", score=_score(tmp_path)), ProgressListener())
    ended = CliRunner().invoke(
        app, ["export", str(tmp_path / "out"), str(tmp_path / "copy"), "--format", "parquet", "--quiet"]
    )
    assert ended.exit_code == 0, ended.output
    found, copied = (turbo_fetch.open_dataset(str(tmp_path / name)) for name in ("out", "copy"))
    assert copied.metadata().select(list(COLUMNS)).equals(found.metadata().select(list(COLUMNS)))
    assert copied.scores == found.scores
