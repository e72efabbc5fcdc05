"""`push`: a finished dataset, of whatever columns, onto the Hugging Face Hub, against a hub on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from typer.testing import CliRunner

import turbo_fetch
from album import album
from dataset_hub import NAME, URL, DatasetHub, data_of, spec_into
from jobs import Silent, content_hashes, job_spec, write_list
from origin import Origin
from scoring import BRIGHTNESS, COLUMNS, written
from turbo_fetch.cli.commands import app
from turbo_fetch.dataset.reader import open_dataset
from turbo_fetch.errors import DatasetError, Interrupted, OutputExists, SpecError
from turbo_fetch.maintenance import push as push_module
from turbo_fetch.maintenance.push import push
from turbo_fetch.maintenance.verify import verify
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import EngineSpec, Spec
from turbo_fetch.stop import StopRequest

# huggingface_hub calls its HTTP client in a way that this announces to end.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ALBUM = album(24, side=40)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


def _full_spec(folder: Path, origin: Origin, output_format: str) -> Spec:
    """Return the spec of a dataset with all that `[fetch]` can add to a sample."""
    # Every image twice, with other captions, and a box in each but the last.
    rows = [origin.url(name) for name in ALBUM] * 2
    boxes = [*["[[0.1, 0.1, 0.6, 0.6]]"] * 47, None]
    urls = write_list(folder / "list.parquet", rows, faces=boxes, similarity=[row / 48 for row in range(48)])
    return job_spec(
        urls,
        folder / "local",
        input={"keep_columns": ["similarity", "faces"], "boxes_column": "faces"},
        output={"samples_per_shard": 20, "format": output_format},
        duplicates={"by": ["url"], "captions": "all"},
        score={
            "function": f"{written(folder, BRIGHTNESS)}:Brightness",
            "columns": COLUMNS,
            "where": "brightness > 125",
        },
    )


def _command(*arguments: str) -> Any:
    ended = CliRunner().invoke(app, [*arguments, "--quiet", "--json"])
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


@pytest.mark.usefixtures("others_may_warn")
@pytest.mark.parametrize("output_format", ["parquet", "webdataset", "files"])
def test_scores_captions_and_boxes_arrive_with_their_types_and_are_loaded_by_name(
    output_format: str, hub: DatasetHub, tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = _full_spec(tmp_path, origin, output_format)
    turbo_fetch.run(spec, ProgressListener())
    assert _command("push", str(tmp_path / "local"), URL)["rows"] == 48
    local, there = open_dataset(str(tmp_path / "local")), open_dataset(URL)
    assert there.metadata() == local.metadata()
    samples = list(there.samples())
    assert samples == list(local.samples())
    assert 0 < len(samples) < 24
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
    data = datasets.load_dataset(NAME, split="train", cache_dir=str(tmp_path / "read"))
    for sample, row in zip(samples, _successes(data, output_format), strict=True):
        assert row["captions"] == sample.metadata["captions"]
        assert len(row["captions"]) == 2
        assert row["brightness"] == pytest.approx(sample.metadata["brightness"])
        assert np.allclose(row["colour"], sample.metadata["colour"])
        assert row["faces"] == "[[0.1, 0.1, 0.6, 0.6]]"
    assert _command("verify", URL, "--deep", "--workers", "1")["problems"] == []


def _successes(data: Any, output_format: str) -> list[dict[str, Any]]:
    """Return the metadata of the samples that `datasets` has loaded, by their keys.

    It reads folders of images in whatever order it finds them.
    """
    if output_format == "webdataset":
        return [row["json"] for row in data.remove_columns("jpg")]
    rows = [row for row in data.remove_columns("image") if row["status"] == "success"]
    return sorted(rows, key=lambda row: str(row["key"]))


def test_a_dataset_that_is_scored_after_a_push_is_pushed_again(
    hub: DatasetHub, tmp_path: Path, origin: Origin
) -> None:
    out = tmp_path / "local"
    turbo_fetch.run(spec_into(tmp_path, origin, str(out)), ProgressListener())
    push(str(out), URL, Silent(), StopRequest())
    function = f"fetch.score.function={written(tmp_path, BRIGHTNESS)}:Brightness"
    columns = 'fetch.score.columns={brightness = "float32", colour = "float16[3]"}'
    _command("score", str(out), "--set", function, "--set", columns)
    push(str(out), URL, Silent(), StopRequest())
    assert data_of(hub.repos[NAME]) == content_hashes(out)
    assert open_dataset(URL).metadata() == open_dataset(str(out)).metadata()
    assert b"brightness" in hub.repos[NAME].files["README.md"]
    # What is there knows its function: scoring it there does nothing more.
    assert _command("score", URL)["shards"] == 0


def test_a_dataset_is_pushed_again_after_its_list_was_copied_and_another_one_was_added(
    hub: DatasetHub, tmp_path: Path, origin: Origin
) -> None:
    out = tmp_path / "local"
    spec = spec_into(tmp_path, origin, str(out))
    turbo_fetch.run(spec, ProgressListener())
    push(str(out), URL, Silent(), StopRequest())
    # The same bytes in another file, which the dataset takes note of.
    content = (tmp_path / "list.parquet").read_bytes()
    (tmp_path / "list.parquet").unlink()
    (tmp_path / "list.parquet").write_bytes(content)
    assert turbo_fetch.run(spec, ProgressListener()).fetch.was_complete
    push(str(out), URL, Silent(), StopRequest())
    more = write_list(tmp_path / "more.parquet", [origin.url("00003.jpg", "redirect", hops=1)])
    output = {"path": str(out), "samples_per_shard": 8, "if_exists": "extend"}
    turbo_fetch.run(job_spec(more, Path("unused"), output=output), ProgressListener())
    assert push(str(out), URL, Silent(), StopRequest()).rows == 25
    assert data_of(hub.repos[NAME]) == content_hashes(out)


def test_a_dataset_on_the_hub_is_scored_there(hub: DatasetHub, tmp_path: Path, origin: Origin) -> None:
    spec = _full_spec(tmp_path, origin, "webdataset")
    turbo_fetch.run(spec, ProgressListener())
    fetch = spec.fetch
    assert fetch is not None
    there = fetch.model_copy(update={"output": fetch.output.model_copy(update={"path": URL}), "score": None})
    turbo_fetch.run(spec.model_copy(update={"fetch": there}), ProgressListener())
    assert fetch.score is not None
    changes = [
        f"fetch.score.function={fetch.score.function}",
        'fetch.score.columns={brightness = "float32", colour = "float16[3]"}',
        f"fetch.score.where={fetch.score.where}",
    ]
    _command("score", URL, *(option for change in changes for option in ("--set", change)))
    assert data_of(hub.repos[NAME]) == content_hashes(tmp_path / "local")


@pytest.mark.parametrize("kind", ["webdataset", "files"])
def test_a_finished_dataset_is_pushed_once_and_then_only_what_has_changed(
    kind: str, hub: DatasetHub, tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "local"
    turbo_fetch.run(spec_into(tmp_path, origin, str(out), format=kind))
    monkeypatch.setattr(push_module, "SHARDS_AT_ONCE", 1)
    stop = StopRequest()
    with pytest.raises(Interrupted):
        push(str(out), URL, Silent(stop, after=1), stop)
    uploads = hub.uploads
    assert "00000_stats.json" in hub.repos[NAME].files
    result = push(str(out), URL, Silent(), StopRequest())
    repo = hub.repos[NAME]
    assert (result.shards, result.rows) == (3, 24)
    assert data_of(repo) == content_hashes(out)
    assert uploads
    assert hub.uploads == len(hub.objects)
    again = push(str(out), URL, Silent(), StopRequest())
    assert again.files == 0
    assert again.files_there > result.shards * 4
    assert hub.uploads == len(hub.objects)
    verified = verify(URL, "full", EngineSpec(workers=1), Silent(), StopRequest())
    assert (verified.problems, verified.rows) == ([], 24)
    # The dataset there goes on as any other.
    assert turbo_fetch.run(spec_into(tmp_path, origin, URL, format=kind)).fetch.was_complete


def test_a_damaged_dataset_and_another_one_are_not_pushed(
    hub: DatasetHub, tmp_path: Path, origin: Origin
) -> None:
    out = tmp_path / "local"
    turbo_fetch.run(spec_into(tmp_path, origin, str(out)))
    push(str(out), URL, Silent(), StopRequest())
    turbo_fetch.run(spec_into(tmp_path, origin, str(tmp_path / "other"), format="parquet"))
    with pytest.raises(OutputExists, match="holds another dataset"):
        push(str(tmp_path / "other"), URL, Silent(), StopRequest())
    content = bytearray((out / "00001.tar").read_bytes())
    content[700] ^= 1
    (out / "00001.tar").write_bytes(content)
    with pytest.raises(DatasetError, match=r"00001\.tar: is altered"):
        push(str(out), URL, Silent(), StopRequest())
    with pytest.raises(SpecError, match="expected hf://datasets/owner/name"):
        push(str(out), str(tmp_path / "copy"), Silent(), StopRequest())
