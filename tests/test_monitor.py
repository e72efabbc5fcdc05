"""The monitor process: what it records, whom it feeds, and that its death and its parent's hurt nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from processes import PATIENCE_S, descendants, free_port, is_gone, kill, lines_of, send, text_of, wait_until
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import MissingExtra, SpecError
from turbo_fetch.monitor import records, trackers
from turbo_fetch.monitor.recorder import Recorder, recorded
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.tally import Tally
from turbo_fetch.spec import TrackSpec


class Notes(ProgressListener):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def _tally(rows: int) -> Tally:
    tally = Tally(Counter({"success": rows, "timeout": 1}), body_bytes=rows * 1000, cpu_s=1.5, open_files=9)
    tally.seconds.add([0.03] * rows + [10.0])
    tally.sizes.add([1000] * rows)
    return tally


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(folder / ".turbo-fetch/metrics")]


def _child(recorder: Recorder) -> psutil.Process:
    assert recorder is not None
    (child,) = descendants(word="turbo_fetch.monitor")
    return child


def test_all_trackers_get_the_figures_of_a_run(tmp_path: Path) -> None:
    port = free_port()
    track = TrackSpec(to=("tensorboard", "prometheus"), port=port, run="mine")
    notes = Notes()
    with recorded(track, "fetch", open_place(str(tmp_path)), notes) as recorder:
        child = _child(recorder)
        recorder.total(50, is_estimate=False)
        recorder.add(0, _tally(20))
        recorder._record(1.0)
        recorder.step(3, 10, "steps", {"loss": 0.25})
        text = wait_until("the loss on the page", lambda: _scraped(port, "loss"))
    families = Counter(line.split()[2] for line in text.splitlines() if line.startswith("# TYPE"))
    assert max(families.values()) == 1
    assert "turbo_fetch_list_rows 50.0" in text
    assert 'turbo_fetch_rows_total{outcome="success"} 20.0' in text
    assert 'turbo_fetch_rows_total{outcome="timeout"} 1.0' in text
    assert 'turbo_fetch_request_seconds_bucket{le="0.05"} 20.0' in text
    assert 'turbo_fetch_request_seconds_bucket{le="+Inf"} 21.0' in text
    assert 'turbo_fetch_worker_cpu_seconds_total{worker="0"} 1.5' in text
    assert 'turbo_fetch_step_value{name="loss",stage="fetch"} 0.25' in text
    events = EventAccumulator(str(tmp_path / ".turbo-fetch/logs" / "tensorboard" / "mine-fetch"))
    events.Reload()
    assert [event.value for event in events.Scalars("fetch/loss")] == [0.25]
    assert events.Scalars("fetch/outcomes/success")[0].value == 20
    assert [line["kind"] for line in _lines(tmp_path)] == ["start", "progress", "step", "progress", "end"]
    assert notes.texts == []
    assert not child.is_running()


def _scraped(port: int, word: str) -> str:
    """Return what the endpoint says, which exists before the process behind it does, if a word is in it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        text = str(answer.read().decode())
        return text if word in text else ""


def test_weights_and_biases_are_written_offline(tmp_path: Path) -> None:
    track = TrackSpec(to=("wandb",), wandb_mode="offline", project="pictures")
    notes = Notes()
    with recorded(track, "fetch", open_place(str(tmp_path)), notes) as recorder:
        recorder.add(0, _tally(20))
        recorder._record(1.0)
    (file,) = tmp_path.glob(".turbo-fetch/logs/wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert b"fetch/rows_per_s" in content
    assert b"pictures" in content
    assert notes.texts == []


def test_its_death_is_told_once_and_hurts_nothing(tmp_path: Path) -> None:
    notes = Notes()
    with recorded(TrackSpec(), "fetch", open_place(str(tmp_path)), notes) as recorder:
        child = _child(recorder)
        kill(child)
        wait_until("its end", lambda: is_gone(child))
        for number in range(3):
            recorder.add(0, _tally(1))
            recorder._record(number + 1.0)
    (text,) = notes.texts
    assert "the monitor ended with SIGKILL; the run continues without" in text


def test_when_the_parent_is_killed_it_ends_and_says_so(tmp_path: Path) -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        recorder = Recorder(TrackSpec(), "fetch", _place(tmp_path), ProgressListener())
        os.write(write, str(_child(recorder).pid).encode())
        signal.pause()
    monitor = psutil.Process(int(os.read(read, 100)))
    os.close(read)
    os.close(write)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    psutil.wait_procs([monitor], timeout=PATIENCE_S)
    assert not monitor.is_running()
    assert _lines(tmp_path)[-1]["how"] == "killed"


def _place(folder: Path) -> Any:
    from turbo_fetch.monitor.recorder import RecordPaths

    return RecordPaths.of(open_place(str(folder)), TrackSpec())


def test_it_outlives_a_ctrl_c_that_the_whole_group_gets(tmp_path: Path) -> None:
    with recorded(TrackSpec(), "fetch", open_place(str(tmp_path)), ProgressListener()) as recorder:
        recorder.note("begun")
        wait_until("the note", lambda: "begun" in text_of(tmp_path / ".turbo-fetch/metrics"))
        send(signal.SIGINT, _child(recorder))
        recorder.note("after")
    assert [line["kind"] for line in _lines(tmp_path)] == ["start", "note", "note", "end"]


def test_a_tracker_that_fails_is_told_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    notes = Notes()
    track = TrackSpec(to=("tensorboard",), folder=str(tmp_path / "file"))
    with recorded(track, "fetch", open_place(str(tmp_path / "out")), notes) as recorder:
        recorder.add(0, _tally(1))
    (text,) = notes.texts
    assert "tensorboard failed; the run continues without it" in text
    assert _lines(tmp_path / "out")[-1]["how"] == "complete"


def test_a_taken_port_is_one_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        track = TrackSpec(to=("prometheus",), port=port)
        with (
            pytest.raises(SpecError, match=f"track.port {port}"),
            recorded(track, "fetch", open_place(str(tmp_path)), ProgressListener()),
        ):
            pass


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    packages: Mapping[str, str] = {"wandb": "no_such_package"}
    monkeypatch.setattr(trackers, "PACKAGES", packages)
    with pytest.raises(MissingExtra, match=r"turbo-fetch\[wandb\]"):
        trackers.check(("wandb",))


@pytest.mark.parametrize(
    ("elapsed_s", "last_s", "due"),
    [(0.4, 0.0, False), (0.5, 0.0, True), (100.0, 96.0, False), (100.0, 95.0, True), (1e6, 1e6 - 9, False)],
)
def test_a_run_is_recorded_ever_more_rarely(elapsed_s: float, last_s: float, due: bool) -> None:
    assert records.is_due(elapsed_s, last_s, 10) is due


def test_a_torn_line_is_ended_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / ".turbo-fetch/metrics"
    path.parent.mkdir()
    path.write_bytes(b'{"kind":"start","time":1}\n{"kind":"prog')
    with recorded(TrackSpec(), "fetch", open_place(str(tmp_path)), ProgressListener()):
        pass
    kinds = [line["kind"] for line in records.parse(path.read_bytes())]
    assert kinds == ["start", "start", "end"]
