from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
from rich.console import Console

from turbo_fetch.progress.display import Display, Steps, _fetch_panel, _step_panel
from turbo_fetch.progress.run_progress import Progress
from turbo_fetch.progress.summary import Summary, human_bytes, human_time
from turbo_fetch.progress.tally import Tally


def _tally(rows: int, **figures: Any) -> Tally:
    return Tally(outcomes=Counter({"success": rows}), **figures)


def test_rates_are_over_the_window_and_eta_follows() -> None:
    progress = Progress(total_rows=1000)
    progress.add(0, _tally(100, body_bytes=1_000_000), now_s=0.0)
    progress.add(0, _tally(50, body_bytes=500_000), now_s=1.0)
    progress.add(1, _tally(150, body_bytes=1_500_000), now_s=2.0)
    rows_per_s, bytes_per_s = progress.rates()
    assert rows_per_s == pytest.approx(100)
    assert bytes_per_s == pytest.approx(1_000_000)
    assert progress.eta_s() == pytest.approx(7.0)


def test_old_figures_leave_the_window() -> None:
    progress = Progress()
    progress.add(0, _tally(1_000_000), now_s=0.0)
    for second in range(20, 31):
        progress.add(0, _tally(10), now_s=float(second))
    assert progress.rates()[0] == pytest.approx(10)


def test_recovered_rows_count_as_done_but_not_for_the_rate() -> None:
    progress = Progress(total_rows=100)
    progress.add(0, _tally(0, recovered=90), now_s=0.0)
    progress.add(0, _tally(5), now_s=1.0)
    assert progress.done_rows == 95
    assert progress.rates()[0] == pytest.approx(5)


def test_without_a_total_there_is_no_eta() -> None:
    progress = Progress()
    progress.add(0, _tally(1), now_s=0.0)
    progress.add(0, _tally(1), now_s=1.0)
    assert progress.eta_s() is None


def test_a_terminal_without_control_sequences_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbo_fetch.progress.display.PLAIN_EVERY_S", 0.0)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")  # how rich is told that it is on a terminal
    out = io.StringIO()
    with Display(out) as display:
        display.progress.add(0, _tally(7), 0.0)
        display.refresh()
    assert "7 rows" in out.getvalue()


def test_without_a_terminal_a_line_tells_rates_failures_and_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbo_fetch.progress.display.PLAIN_EVERY_S", 0.0)
    out = io.StringIO()
    with Display(out) as display:
        display.progress.total_rows = 200
        display.progress.add(0, Tally(outcomes=Counter({"success": 90, "http-4xx": 10}), in_flight=7), 0.0)
        display.progress.add(0, Tally(outcomes=Counter({"success": 10}), in_flight=7), 1.0)
        display.refresh()
    line = out.getvalue()
    assert "110 of 200 rows (55.0%)" in line
    assert "http-4xx 10" in line
    assert "in flight 7" in line
    assert "\x1b" not in line
    assert line.count("\n") == 1


def test_a_run_without_rows_yet_has_no_share_of_successes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbo_fetch.progress.display.PLAIN_EVERY_S", 0.0)
    out = io.StringIO()
    with Display(out) as display:
        display.refresh()
    assert "success none yet" in out.getvalue()


def test_quiet_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbo_fetch.progress.display.PLAIN_EVERY_S", 0.0)
    out = io.StringIO()
    with Display(out, quiet=True) as display:
        display.note("hello")
        display.refresh()
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1.5e9, "1.5 GB"), (3e18, "3000.0 PB")]
)
def test_bytes_have_a_unit(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (245, "4:05 min"), (11045, "3:04:05 h")]
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


def test_the_summary_names_failures_hosts_and_the_place() -> None:
    summary = Summary("/data/set", run_rows=100, wall_s=2.0, downloaded_bytes=5_000_000)
    summary.add_shard(
        {
            "rows": 100,
            "outcomes": {"success": 80, "http-4xx": 15, "timeout": 5},
            "files": [{"bytes": 1_000_000}, {"bytes": 500_000}],
            "failing_hosts": {"example.org": 12, "example.net": 8},
        }
    )
    text = summary.text()
    assert "/data/set" in text
    assert "80 of 100 rows (80.0%)" in text
    assert "1.5 MB" in text
    assert "http-4xx 15, timeout 5" in text
    assert "example.org 12, example.net 8" in text
    assert "50 rows/s" in text


def _panel(progress: Progress, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(_fetch_panel(progress, 75.0, 400_000_000, width))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_says_everything_at_any_width(width: int) -> None:
    progress = Progress(total_rows=200)
    progress.add(0, Tally(Counter({"success": 90, "http-4xx": 10}), in_flight=7, waiting=3), 0.0)
    progress.add(0, Tally(Counter({"success": 10}), body_bytes=2_000_000, in_flight=7, waiting=3), 1.0)
    lines = _panel(progress, width)
    assert all(len(line) <= width for line in lines)
    text = " ".join(" ".join(lines).split())
    for words in (
        "110 of 200 rows (55.0%)",
        "10 rows/s · 2.0 MB/s",
        "90.9%",
        "http-4xx 10",
        "7 in flight",
        "400.0 MB",
    ):
        assert words in text
    assert "9.0 s left" in text


def test_every_phase_of_a_stage_has_a_speed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with Display(io.StringIO(), quiet=True) as display:
        display.stage("train")
        # Encoding, then the steps of a run that resumes; then models of which each makes the same number of images.
        for phase, ends in (("encoded", 100), ("steps", 140), ("images", 8), ("images", 8)):
            for place, done in enumerate((ends // 2, ends)):
                now += 10.0 if place else 1000.0
                if phase == "encoded":
                    display.phase(done, ends, phase)
                else:
                    display.step(done, ends, phase, {})
            steps = display._steps
            assert steps is not None
            assert steps.rate(now) == (ends - ends // 2) / 10.0


def test_a_stage_that_goes_in_steps_shows_its_figures() -> None:
    steps = Steps("train", 0.0, done=30, total=100, values={"loss": 0.12345}, first=(10.0, 20))
    out = io.StringIO()
    Console(file=out, width=80).print(_step_panel(steps, 30.0, 80))
    text = " ".join(out.getvalue().split())
    for words in ("train 30 of 100 steps", "2.0 s each", "loss 0.1235", "2:20 min left"):
        assert words in text
