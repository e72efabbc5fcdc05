"""Datasets that an export has cut into other shards, which follow no list: retried, refreshed, scored, extended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import turbo_fetch
from album import album, encoded
from jobs import content_hashes, job_spec, ledger, write_list
from origin import Origin
from scoring import BRIGHTNESS, written
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.errors import OutputExists
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec

ALBUM = album(40, side=40)
LATE = (3, 17, 18, 39)
"""Rows that come with a retry only."""
CUTS = {"rows": ("--samples-per-shard", "7"), "bytes": ("--max-shard-mb", "0.03")}


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


def _call(command: str, *arguments: str, code: int = 0) -> Any:
    ended = CliRunner().invoke(app, [command, *arguments, "--quiet", "--json"])
    assert ended.exit_code == code, ended.output
    return json.loads(ended.stdout) if code == 0 else " ".join(ended.stderr.split())


def _spec(origin: Origin, folder: Path, late: tuple[int, ...] = LATE, **changes: Any) -> Spec:
    rows = [origin.url(name) for name in ALBUM]
    for row in late:
        rows[row] = origin.url(f"{row:05d}.jpg", "status", code=503, times=1, of=folder.name)
    # Half of the names are there twice, and lie in other shards before and after.
    names = [f"cat/{row % 20}" for row in range(40)]
    urls = write_list(folder / "list.parquet", rows, name=names, faces=["[]"] * 40)
    changes["input"] = {"keep_columns": ["name"], **changes.get("input", {})}
    changes["output"] = {"samples_per_shard": 12, **changes.get("output", {})}
    return job_spec(urls, folder / "out", http={"retries": 0}, **changes)


def _cut(folder: Path, cut: str, output_format: str = "webdataset") -> str:
    place = str(folder / "cut")
    _call("export", str(folder / "out"), place, "--format", output_format, *CUTS[cut], "--workers", "1")
    return place


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_a_retry_after_the_cut_comes_to_what_one_before_it_does(
    origin: Origin, tmp_path: Path, cut: str, output_format: str
) -> None:
    turbo_fetch.run(_spec(origin, tmp_path), ProgressListener())
    place = _cut(tmp_path, cut, output_format)
    keys = [row["key"] for row in ledger(Path(place))]
    assert _call("retry", place)["recovered"] == len(LATE)
    assert [row["key"] for row in ledger(Path(place))] == keys
    assert {row["outcome"] for row in ledger(Path(place))} == {"success"}
    assert _call("verify", place, "--deep", "--workers", "1")["problems"] == []
    (tmp_path / "lucky").mkdir()
    turbo_fetch.run(_spec(origin, tmp_path / "lucky", late=()), ProgressListener())
    images = [sample.image for sample in open_dataset(str(tmp_path / "lucky" / "out")).samples()]
    assert [sample.image for sample in open_dataset(place).samples()] == images
    if cut == "rows":
        wanted = _cut(tmp_path / "lucky", cut, output_format)
        # But for the addresses, which say of each image that it comes late.
        assert [row["key"] for row in ledger(Path(wanted))] == keys
    assert _call("retry", place)["asked"] == 0


def test_keys_from_a_column_are_those_of_the_new_shards_and_stay(origin: Origin, tmp_path: Path) -> None:
    output = {"key_column": "name", "key_prefix": "x-"}
    turbo_fetch.run(_spec(origin, tmp_path, output=output), ProgressListener())
    place = _cut(tmp_path, "rows")
    rows = [row["key"] for row in ledger(Path(place))]
    assert rows == [f"x-cat_{row % 20}" for row in range(40)]
    assert _call("retry", place)["recovered"] == len(LATE)
    assert [row["key"] for row in ledger(Path(place))] == rows


def test_a_refresh_takes_what_has_changed(origin: Origin, tmp_path: Path) -> None:
    turbo_fetch.run(_spec(origin, tmp_path, late=()), ProgressListener())
    place = _cut(tmp_path, "bytes")
    before = [sample.image for sample in open_dataset(place).samples()]
    origin.pictures = {**ALBUM, "00005.jpg": encoded(50, 40, 99)}
    drift = _call("refresh", place, "--apply")["drift"]
    assert (drift["changed"], drift["unchanged"]) == (1, 39)
    after = [sample.image for sample in open_dataset(place).samples()]
    assert [row for row in range(40) if before[row] != after[row]] == [5]
    assert _call("verify", place, "--workers", "1")["problems"] == []


def test_scores_go_along_and_come_later_too(origin: Origin, tmp_path: Path) -> None:
    score = {
        "function": f"{written(tmp_path, BRIGHTNESS)}:Brightness",
        "columns": {"brightness": "float32", "colour": "float32[3]"},
    }
    turbo_fetch.run(_spec(origin, tmp_path, score=score), ProgressListener())
    place = _cut(tmp_path, "rows")
    assert _call("score", place)["shards"] == 0
    assert _call("retry", place)["recovered"] == len(LATE)
    assert all(sample.metadata["brightness"] > 0 for sample in open_dataset(place).samples())
    shutil.rmtree(tmp_path / "out")
    turbo_fetch.run(_spec(origin, tmp_path, late=()), ProgressListener())
    shutil.rmtree(place)
    place = _cut(tmp_path, "rows")
    changes = [
        f"fetch.score.function={score['function']}",
        'fetch.score.columns={brightness = "float32", colour = "float32[3]"}',
    ]
    options = [word for change in changes for word in ("--set", change)]
    assert _call("score", place, *options)["shards"] == 6
    assert all(sample.metadata["brightness"] > 0 for sample in open_dataset(place).samples())


def test_what_only_the_list_knows_is_not_guessed_and_nothing_is_changed(
    origin: Origin, tmp_path: Path
) -> None:
    turbo_fetch.run(_spec(origin, tmp_path, input={"boxes_column": "faces"}), ProgressListener())
    place = _cut(tmp_path, "rows")
    before = content_hashes(Path(place)), ledger(Path(place))
    for command in ("retry", "refresh"):
        message = _call(command, place, code=2)
        assert "the boxes (fetch.input.boxes_column = 'faces') are in the list alone" in message
        assert "export it again" in message
    assert (content_hashes(Path(place)), ledger(Path(place))) == before
    assert _call("verify", place, "--workers", "1")["problems"] == []


def test_a_run_does_not_go_on_with_it_but_may_add_a_list(origin: Origin, tmp_path: Path) -> None:
    turbo_fetch.run(_spec(origin, tmp_path), ProgressListener())
    place = _cut(tmp_path, "rows")
    spec = _spec(origin, tmp_path, output={"path": place, "samples_per_shard": 7})
    with pytest.raises(OutputExists, match=r"follow no list.*run the dataset that they were cut from"):
        turbo_fetch.run(spec, ProgressListener())
    hashes = content_hashes(Path(place))
    (tmp_path / "more").mkdir()
    more = _spec(
        origin,
        tmp_path / "more",
        late=(2,),
        output={"path": place, "samples_per_shard": 7, "if_exists": "extend"},
    )
    turbo_fetch.run(more, ProgressListener())
    assert hashes.items() <= content_hashes(Path(place)).items()
    assert len(ledger(Path(place))) == 80
    assert _call("retry", place)["recovered"] == len(LATE) + 1
    assert _call("verify", place, "--workers", "1")["problems"] == []


def test_a_duplicate_says_where_its_original_has_the_key_that_it_names(
    origin: Origin, tmp_path: Path
) -> None:
    rows = [origin.url(f"000{row % 15:02d}.jpg") for row in range(20)]
    urls = write_list(tmp_path / "list.parquet", rows)
    output = {"samples_per_shard": 12}
    turbo_fetch.run(
        job_spec(urls, tmp_path / "out", output=output, duplicates={"by": ["url"]}), ProgressListener()
    )
    assert ledger(tmp_path / "out")[16]["detail"] == "duplicate of 0000001"
    place = Path(_cut(tmp_path, "rows"))
    told = [row["detail"] for row in ledger(place)]
    assert told == [*[None] * 15, *[f"duplicate of 000000{row} in {tmp_path}/out" for row in range(5)]]
    assert open_dataset(str(place)).metadata().column("error_message").to_pylist() == told
