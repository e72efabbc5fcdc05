"""The drop-in with keys that img2dataset has no options for: scores, captions of all rows of a URL, crops to boxes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from album import album
from jobs import content_hashes, ledger, write_list
from origin import Origin
from scoring import BRIGHTNESS, FAULTY, written
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.img2dataset import download

ALBUM = album(12, side=40)
BOX = (0.2, 0.2, 0.8, 0.8)
LOOPBACK = ("fetch.http.allow_private_addresses=true", "fetch.http.per_domain=0")
GROUPED = ('fetch.duplicates.by=["url"]', "fetch.duplicates.captions=all")


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


@pytest.fixture
def options(origin: Origin, tmp_path: Path) -> dict[str, Any]:
    """A command of img2dataset's, whose list has each image twice, boxes, and a row that fails."""
    rows = [
        *(origin.url(name) for name in ALBUM),
        *(origin.url(name) for name in ALBUM),
        origin.url("no.jpg"),
    ]
    urls = write_list(tmp_path / "list.parquet", rows, faces=[f"[{list(BOX)}]"] * 25)
    return {
        "url_list": str(urls),
        "input_format": "parquet",
        "caption_col": "caption",
        "bbox_col": "faces",
        "output_folder": str(tmp_path / "out"),
        "resize_mode": "no",
        "number_sample_per_shard": 10,
        "encode_format": "png",
    }


def _scored(folder: Path, code: str = BRIGHTNESS, name: str = "Brightness", **keys: str) -> list[str]:
    columns = (
        '{brightness = "float32", colour = "float16[3]"}' if code == BRIGHTNESS else '{length = "int32"}'
    )
    given = {"function": f"{written(folder, code)}:{name}", "columns": columns, **keys}
    return [f"fetch.score.{key}={value}" for key, value in given.items()]


def _metadata(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def _cropped(body: bytes) -> Any:
    """Return the pixels in the box, as Pillow cuts them out."""
    image = Image.open(io.BytesIO(body)).convert("RGB")
    sides = (image.width, image.height) * 2
    left, top, right, bottom = (round(part * side) for part, side in zip(BOX, sides, strict=True))
    return np.asarray(image.crop((left, top, right, bottom)))


@pytest.mark.parametrize("output_format", ["files", "webdataset", "parquet", "tfrecord"])
def test_all_of_them_are_in_every_format(options: dict[str, Any], tmp_path: Path, output_format: str) -> None:
    overrides = [
        *LOOPBACK,
        *GROUPED,
        "fetch.input.boxes_use=crop_largest",
        *_scored(tmp_path, where="brightness > 135"),
    ]
    download(**{**options, "output_format": output_format}, overrides=overrides)
    rows = _metadata(tmp_path / "out")
    assert {row["status"] for row in rows[12:]} == {"failed_to_download"}
    assert rows[24]["error_message"] == "HTTP Error 404: Not Found"
    originals = [row["error_message"].removeprefix("duplicate of ") for row in rows[12:24]]
    assert originals == [row["key"] for row in rows[:12]]
    dropped = [row for row in rows[:12] if row["status"] != "success"]
    assert 0 < len(dropped) < 12
    assert {(row["status"], row["error_message"]) for row in dropped} == {
        ("failed_to_resize", "not brightness > 135")
    }
    samples = list(open_dataset(str(tmp_path / "out")).samples())
    assert len(samples) == 12 - len(dropped)
    for sample in samples:
        row = int(sample.metadata["caption"].removeprefix("image "))
        image = np.asarray(Image.open(io.BytesIO(sample.image)))
        assert np.abs(image.astype(int) - _cropped(ALBUM[f"{row:05d}.jpg"])).mean() < 2
        assert sample.metadata["brightness"] == pytest.approx(image.mean(axis=(0, 1)).mean(), rel=1e-5)
        assert sample.metadata["captions"] == [f"image {row}", f"image {row + 12}"]
        assert sample.metadata["faces"] == f"[{list(BOX)}]"


def _printed(*arguments: str) -> str:
    ended = CliRunner().invoke(app, [*arguments])
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_on_the_command_line_and_in_a_printed_spec_they_mean_the_same(
    options: dict[str, Any], tmp_path: Path
) -> None:
    overrides = [*LOOPBACK, *GROUPED, *_scored(tmp_path)]
    download(**options, overrides=overrides)
    typed = {**options, "output_folder": tmp_path / "typed"}
    settings = [word for override in overrides for word in ("--set", override)]
    command = ["img2dataset", *(f"--{name}={value}" for name, value in typed.items()), *settings]
    _printed(*command, "--quiet")
    assert content_hashes(tmp_path / "typed") == content_hashes(tmp_path / "out")
    (tmp_path / "spec.toml").write_text(_printed(*command, "--print_spec"))
    _printed("run", str(tmp_path / "spec.toml"), "--quiet", "--set", f"fetch.output.path={tmp_path}/spec")
    assert content_hashes(tmp_path / "spec") == content_hashes(tmp_path / "out")


def test_a_function_that_fails_costs_the_rows_that_it_fails_for(
    options: dict[str, Any], tmp_path: Path
) -> None:
    bad = 'fetch.score.arguments={how = "raise", bad = ["image 3"]}'
    download(**options, overrides=[*LOOPBACK, *_scored(tmp_path, FAULTY, "faulty"), bad])
    failed = [row for row in _metadata(tmp_path / "out") if row["status"] == "failed_to_resize"]
    assert [row["caption"] for row in failed] == ["image 3"]
    assert "ValueError: the model does not like it" in failed[0]["error_message"]
    stats = json.loads((tmp_path / "out" / "00000_stats.json").read_text())
    assert (stats["successes"], stats["failed_to_resize"]) == (9, 1)
    assert [row["outcome"] for row in ledger(tmp_path / "out")].count("unscored") == 1
