"""`[fetch.score]`: what a function of the user's says is in every format, decides, and fails for its own rows alone."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import turbo_fetch
from album import album
from jobs import content_hashes, job_spec, ledger, manifest, start, waiting_for, write_list
from origin import Origin
from processes import finished, is_gone, lines_of, wait_until
from scoring import BRIGHTNESS, COLUMNS, FAULTY, HELD, written
from turbo_fetch.errors import ScoringFailed, SpecError
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import OutputFormat, Spec

ALBUM = album(30, side=40)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM) as origin:
        yield origin


def _spec(
    origin: Origin, folder: Path, score: dict[str, Any], rows: int = 30, **changes: dict[str, Any]
) -> Spec:
    urls = write_list(folder / "list.parquet", [origin.url(name) for name in list(ALBUM)[:rows]])
    changes["output"] = {"samples_per_shard": 12, **changes.get("output", {})}
    return job_spec(urls, folder / "out", score={"batch_size": 5, **score}, **changes)


def _brightness(folder: Path, **score: Any) -> dict[str, Any]:
    path = written(folder, BRIGHTNESS)
    return {"function": f"{path}:Brightness", "columns": COLUMNS, **score}


def _faulty(folder: Path, **score: Any) -> dict[str, Any]:
    return {"function": f"{written(folder, FAULTY)}:faulty", "columns": {"length": "int32"}, **score}


def _run(spec: Spec) -> turbo_fetch.Summary:
    return turbo_fetch.run(spec, ProgressListener()).fetch


def _metadata(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("output_format", ["webdataset", "files", "parquet", "lmdb", "tfrecord"])
def test_scores_are_those_of_the_stored_image_in_every_format(
    origin: Origin, tmp_path: Path, output_format: OutputFormat
) -> None:
    _run(_spec(origin, tmp_path, _brightness(tmp_path), output={"format": output_format}))
    dataset = turbo_fetch.open_dataset(str(tmp_path / "out"))
    samples = list(dataset.samples())
    assert len(samples) == len(ALBUM)
    for sample in samples:
        means = np.asarray(Image.open(io.BytesIO(sample.image))).mean(axis=(0, 1))
        assert sample.metadata["brightness"] == pytest.approx(means.mean(), rel=1e-6)
        assert sample.metadata["colour"] == pytest.approx(means, rel=1e-3)
    assert dataset.metadata().schema.field("colour").type == pa.list_(pa.float16(), 3)
    assert turbo_fetch.open_dataset(str(tmp_path / "out")).scores.names == list(COLUMNS)


def test_scores_are_in_the_json_of_a_webdataset(origin: Origin, tmp_path: Path) -> None:
    _run(_spec(origin, tmp_path, _brightness(tmp_path)))
    rows = {row["key"]: row for row in _metadata(tmp_path / "out")}
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        found = [json.load(tar.extractfile(each)) for each in tar if each.name.endswith(".json")]  # type: ignore[arg-type]
    assert len(found) == 12
    for each in found:
        assert each["brightness"] == pytest.approx(rows[each["key"]]["brightness"])
        assert each["colour"] == rows[each["key"]]["colour"]


def test_images_for_which_the_condition_does_not_hold_are_dropped_and_counted(
    origin: Origin, tmp_path: Path
) -> None:
    spec = _spec(origin, tmp_path, _brightness(tmp_path, where="brightness > 125 and colour is not None"))
    summary = _run(spec)
    rows = _metadata(tmp_path / "out")
    dropped = [row for row in rows if row["status"] != "success"]
    assert 0 < len(dropped) < len(rows)
    assert all((row["brightness"] > 125) == (row["status"] == "success") for row in rows)
    assert {row["width"] for row in dropped} == {None}
    assert Counter(row["outcome"] for row in ledger(tmp_path / "out")) == {
        "success": len(rows) - len(dropped),
        "filtered": len(dropped),
    }
    assert summary.outcomes["filtered"] == len(dropped)
    assert {row["detail"] for row in ledger(tmp_path / "out") if row["outcome"] == "filtered"} == {
        "not brightness > 125 and colour is not None"
    }
    kept = {sample.key for sample in turbo_fetch.open_dataset(str(tmp_path / "out")).samples()}
    assert kept == {row["key"] for row in rows if row["status"] == "success"}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "raised ValueError: the model does not like it"),
        ("crash", "ended the process"),
        ("hang", "did not return within 4 s"),
        ("rows", "returned 0 values of 'length' for 1 images; expected one for each"),
        ("type", "returned a list for 'length'; expected values of int32"),
    ],
)
def test_a_failure_costs_only_the_rows_that_it_is_about(
    origin: Origin, tmp_path: Path, how: str, said: str
) -> None:
    bad = ["image 3", "image 4", "image 20"]
    score = _faulty(tmp_path, arguments={"how": how, "bad": bad}, timeout_s=4 if how == "hang" else 60)
    summary = _run(_spec(origin, tmp_path, score))
    rows = _metadata(tmp_path / "out")
    assert [row["caption"] for row in rows if row["status"] != "success"] == bad
    assert [row["length"] for row in rows] == [
        None if row["caption"] in bad else len(row["caption"]) for row in rows
    ]
    failed = [row for row in ledger(tmp_path / "out") if row["outcome"] == "unscored"]
    assert [row["retryable"] for row in failed] == [True] * 3
    assert all(row["detail"].startswith(said) for row in failed)
    assert summary.outcomes["unscored"] == 3


def test_a_function_that_fails_for_every_image_ends_the_run_with_its_traceback(
    origin: Origin, tmp_path: Path
) -> None:
    with pytest.raises(ScoringFailed) as error:
        _run(_spec(origin, tmp_path, _faulty(tmp_path), output={"samples_per_shard": 15}))
    first, *trace = str(error.value).splitlines()
    assert "raised ValueError: the model does not like it, for every image so far" in first
    assert '    raise ValueError("the model does not like it")' in trace
    # What arrived is not lost: once the function is mended, nothing is asked for again.
    hits = origin.hits.total()
    spec = _spec(origin, tmp_path, _faulty(tmp_path), output={"samples_per_shard": 15})
    written(tmp_path, FAULTY.replace("if not bad or", "if"))
    assert _run(spec).successes == len(ALBUM)
    assert origin.hits.total() == hits


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (
            "def other(batch): ...",
            SpecError,
            r"there is no function or class Scores; expected one that takes",
        ),
        (
            "import nowhere",
            SpecError,
            r"cannot be imported \(ModuleNotFoundError: No module named 'nowhere'\)",
        ),
        (
            "class Scores:\n    def __init__(self): raise OSError('no weights')",
            ScoringFailed,
            "cannot be made: OSError: no weights",
        ),
        ("class Scores: pass", SpecError, "what it makes cannot be called; expected a method __call__"),
        ("import os\nos._exit(3)", ScoringFailed, "ends before the function is ready"),
    ],
)
def test_a_function_that_cannot_be_made_ends_the_run(
    origin: Origin, tmp_path: Path, code: str, kind: type[Exception], said: str
) -> None:
    path = tmp_path / "scores.py"
    path.write_text(code)
    spec = _spec(origin, tmp_path, {"function": f"{path}:Scores", "columns": {"x": "float32"}})
    with pytest.raises(kind, match=said):
        _run(spec)


def test_two_workers_share_a_process_and_make_what_one_makes(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short, since sockets are to lie there.
    place = Path(tempfile.mkdtemp())
    monkeypatch.setenv("TMPDIR", str(place))
    marks = tmp_path / "marks"
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        spec = _spec(
            origin,
            folder,
            _brightness(tmp_path, arguments={"marks": str(marks)}, where="brightness > 125"),
            engine={"workers": workers, "threads": 1},
            http={"timeout_s": 500, "stall_timeout_s": 500},
        )
        with waiting_for(workers, origin) as listener:
            turbo_fetch.run(spec, listener)
        found.append(content_hashes(folder / "out"))
    assert found[0] == found[1]
    assert len(marks.read_text().splitlines()) == 2
    # Processes end with the last worker that is there.
    for pid in map(int, marks.read_text().split()):
        wait_until("the end of the process that scores", partial(is_gone, pid))
    place.rmdir()


def test_several_processes_are_all_used(origin: Origin, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    _run(_spec(origin, tmp_path, _brightness(tmp_path, arguments={"marks": str(marks)}, processes=2)))
    assert len(set(marks.read_text().split())) == 2


def test_a_run_that_is_killed_while_it_scores_goes_on_where_it_was(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    _run(_spec(origin, tmp_path / "whole", _brightness(tmp_path)))
    (tmp_path / "killed").mkdir()
    calls, held = tmp_path / "calls", tmp_path / "held"
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("HELD", str(held))
    path = written(tmp_path, BRIGHTNESS + HELD)
    spec = _spec(origin, tmp_path / "killed", {"function": f"{path}:Held", "columns": COLUMNS})
    held.touch()
    process = start(spec, tmp_path)
    wait_until("the call that stays", lambda: any("image 17" in line for line in lines_of(calls)), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    held.unlink()
    # At least the shard of the call that never returned is left.
    assert len(manifest(tmp_path / "killed" / "out")) < 3
    _run(spec)
    after = calls.read_text().splitlines()
    # Of the 3 + 3 + 2 batches of three shards, those alone are scored again whose scores had not come back.
    assert len(set(after)) == 8
    assert len(after) - 8 <= 2
    assert content_hashes(tmp_path / "killed" / "out") == content_hashes(tmp_path / "whole" / "out")


def test_ctrl_c_does_not_wait_for_a_call(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, held = tmp_path / "calls", tmp_path / "held"
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("HELD", str(held))
    path = written(tmp_path, BRIGHTNESS + HELD)
    spec = _spec(origin, tmp_path, {"function": f"{path}:Held", "columns": COLUMNS})
    held.touch()
    process = start(spec, tmp_path)
    wait_until("the call that stays", lambda: any("image 17" in line for line in lines_of(calls)), process)
    os.killpg(process.pid, signal.SIGINT)
    _, said = finished(process)
    assert process.returncode == 130, said
    held.unlink()
    hits = origin.hits.total()
    assert _run(spec).successes == len(ALBUM)
    assert origin.hits.total() == hits


def test_a_function_of_another_version_does_not_go_on_with_the_dataset(
    origin: Origin, tmp_path: Path
) -> None:
    spec = _spec(origin, tmp_path, _brightness(tmp_path))
    _run(spec)
    with pytest.raises(turbo_fetch.TurboFetchError, match=r'score.version was "", is now "2"|version'):
        _run(_spec(origin, tmp_path, _brightness(tmp_path, version="2")))


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ({"columns": {"x": "float"}}, "fetch.score: columns has x = 'float'; expected bool, string, int32"),
        ({"columns": {"width": "float32"}}, "has 'width', which is a column of the dataset already"),
        (
            {"where": "beauty > 1"},
            "names 'beauty', which is no column of the dataset; expected one of caption",
        ),
        ({"where": "colour > 1"}, "does not fit the columns"),
        ({"function": "nowhere.py:f"}, r"cannot be imported \(FileNotFoundError"),
        ({"function": "nowhere:f"}, "No module named 'nowhere'"),
        ({"function": "scores.py"}, "expected a file or module and a name in it"),
    ],
)
def test_what_cannot_be_is_refused_before_a_request(
    origin: Origin, tmp_path: Path, score: dict[str, Any], said: str
) -> None:
    hits = origin.hits.total()
    with pytest.raises(SpecError, match=said):
        _run(_spec(origin, tmp_path, _brightness(tmp_path, **score)))
    assert origin.hits.total() == hits


class _Notes(ProgressListener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_run_says_when_the_code_has_changed_since_shards_were_scored(
    origin: Origin, tmp_path: Path
) -> None:
    spec = _spec(origin, tmp_path, _brightness(tmp_path))
    heard = _Notes()
    turbo_fetch.run(spec, heard)
    assert len({record["scored_by"] for record in manifest(tmp_path / "out")}) == 1
    assert not [note for note in heard.notes if "fetch.score" in note]
    written(tmp_path, BRIGHTNESS + "\n    # changed\n")
    turbo_fetch.run(spec, heard)
    assert [note for note in heard.notes if "has changed since 3 shards were scored" in note]
