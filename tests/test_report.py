"""The report: what it says, that strangers cannot make it do anything, and that a browser draws it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import turbo_fetch
from album import album
from browser import browse, faults_of_sight
from jobs import job_spec, write_list
from origin import Origin
from turbo_fetch.dataset.place import open_place
from turbo_fetch.monitor.recorder import recorded
from turbo_fetch.monitor.report.document import script_json
from turbo_fetch.monitor.report.figures import figures
from turbo_fetch.monitor.report.material import Material, gather
from turbo_fetch.monitor.report.remedies import remedies
from turbo_fetch.outcomes import Outcome
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.summary import Summary
from turbo_fetch.progress.tally import Tally
from turbo_fetch.spec import TrackSpec
from turbo_fetch.spec.specfile import parse_spec

ALBUM = album(30)
HOSTILE = (
    "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'> {{plotly}} {{script}}"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("report")
    with Origin(ALBUM) as origin:
        urls = [origin.url(name) for name in ALBUM]
        urls += [origin.url("gone<script>.jpg"), "javascript:window.broken=1", f"http://{HOSTILE}"]
        path = write_list(folder / "list.parquet", urls)
        table = pq.read_table(path)
        captions = [HOSTILE] * len(urls)
        pq.write_table(table.set_column(1, "caption", [captions]), path)
        turbo_fetch.run(job_spec(path, folder / "out", output={"samples_per_shard": 20}))
        yield folder / "out"


def test_a_run_writes_it_and_a_browser_draws_every_plot_without_errors_or_requests(dataset: Path) -> None:
    with browse((dataset / "report.html").as_uri(), scheme="dark") as tab:
        tab.page.wait_for_selector("#plot-hosts .barlayer path", state="attached")
        drawn = tab.page.eval_on_selector_all(
            ".plot", "all => all.map(one => one.querySelectorAll('.main-svg').length)"
        )
        shown = tab.page.eval_on_selector_all(
            "figure img", "all => all.filter(one => one.naturalWidth > 0).length"
        )
        broken = tab.page.evaluate("window.broken")
        caption = tab.page.inner_text("figure .caption >> nth=0")
        background = "() => getComputedStyle(document.body).backgroundColor"
        dark = tab.page.evaluate(background)
        tab.page.click("#theme")
        light = tab.page.evaluate(background)
        links = tab.page.eval_on_selector_all("a", "all => all.map(one => one.protocol)")
    assert tab.errors == []
    assert len(drawn) >= 5
    assert all(drawn)
    assert shown == 22
    assert broken is None
    assert caption == HOSTILE
    assert dark != light
    # An address that the browser cannot read is a link to nowhere.
    assert set(links) <= {"http:", ":"}
    assert "http:" in links
    assert all(url.startswith(("file:", "data:")) for url in tab.requests)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_is_readable_on_a_desk_and_on_a_phone_in_both_themes(
    dataset: Path, scheme: str, width: int
) -> None:
    with browse((dataset / "report.html").as_uri(), scheme, width) as tab:
        tab.page.wait_for_selector(".plot .main-svg", state="attached")
        tab.page.click("summary")
        assert faults_of_sight(tab.page) == []
        columns = (
            "() => getComputedStyle(document.querySelector('.cards')).gridTemplateColumns.split(' ').length"
        )
        assert tab.page.evaluate(columns) >= 2


def test_every_way_to_fail_is_counted_explained_and_answered(dataset: Path) -> None:
    with browse((dataset / "report.html").as_uri()) as tab:
        outcomes = tab.page.locator("section", has_text="Outcomes").locator("tbody tr").all_inner_texts()
        runs = tab.page.locator("section", has_text="Runs").last.inner_text()
        spec = tab.page.locator("pre").text_content()
    assert [text.split()[:2] for text in outcomes] == [["url", "2"], ["http-4xx", "1"]]
    assert "fetch.input.url_column" in outcomes[0]
    assert "not found, forbidden, gone" in outcomes[1]
    assert "complete" in runs
    assert parse_spec(tomllib.loads(spec or "")).fetch is not None


def test_what_may_change_an_outcome_is_a_key_of_the_spec_or_a_command(tmp_path: Path) -> None:
    score = {"function": "numpy:mean", "columns": {"mean": "float32"}}
    spec = job_spec(tmp_path / "list.parquet", tmp_path / "out", score=score)
    for outcome in set(Outcome) - {Outcome.SUCCESS}:
        commands = ["turbo-fetch retry out"] if outcome.retryable else []
        found = remedies(outcome, "out")
        assert found[: len(commands)] == commands
        for key in found[len(commands) :]:
            attrgetter(key)(spec)


def test_it_can_be_written_at_any_time(dataset: Path) -> None:
    (dataset / "report.html").unlink()
    command = [sys.executable, "-m", "turbo_fetch", "report", str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(dataset / "report.html")
    assert b"Plotly" in (dataset / "report.html").read_bytes()


def test_images_are_found_behind_rows_that_failed(tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        rows = ["no url"] * 110 + [origin.url(name) for name in ALBUM]
        urls = write_list(tmp_path / "list.parquet", rows)
        turbo_fetch.run(job_spec(urls, tmp_path / "out", output={"samples_per_shard": 200}))
    samples = gather(open_place(str(tmp_path / "out"))).samples
    # The first 64 rows have none, the second 18, and of the rest as many are taken as are lacking.
    assert len(samples) == 24
    assert len({sample.key for sample in samples}) == 24
    assert samples == sorted(samples, key=lambda sample: sample.key)


def test_without_a_dataset_there_is_one_clear_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "turbo_fetch", "report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_counts_of_the_figures_are_those_of_the_dataset(dataset: Path) -> None:
    material = gather(open_place(str(dataset)))
    plots = {plot["id"]: plot for plot in figures(material)}
    assert sum(plots["sides"]["data"][0]["y"]) == 30
    assert sum(plots["aspects"]["data"][0]["y"]) == 30
    assert plots["hosts"]["data"][0]["x"] == [30]
    assert plots["hosts"]["data"][1]["x"] == [1]
    assert {failure.outcome for failure in material.failures} == {"http-4xx", "url"}


def test_records_say_how_a_run_went(dataset: Path) -> None:
    lines = [json.loads(line) for line in (dataset / ".turbo-fetch/metrics").read_text().splitlines()]
    assert lines[0]["kind"] == "start"
    assert (lines[-1]["kind"], lines[-1]["how"]) == ("end", "complete")
    last = [line for line in lines if line["kind"] == "progress"][-1]
    assert last["outcomes"] == {"success": 30, "http-4xx": 1, "url": 2}
    assert sum(last["seconds"]) == 31
    (worker,) = last["workers"]
    assert worker["rows"] == 33
    assert worker["memory_bytes"] > 1_000_000
    assert worker["open_files"] > 3
    assert worker["cpu_s"] > 0


def test_json_in_a_script_cannot_end_it() -> None:
    text = script_json({"a": "</script><!--&"})
    assert not re.search(rb"[<>&]", text)
    assert json.loads(text) == {"a": "</script><!--&"}


def test_a_long_run_renews_it_while_it_goes_on(dataset: Path) -> None:
    before = (dataset / "report.html").stat().st_mtime_ns
    track = TrackSpec(report_every_s=1e-9)
    with recorded(track, "fetch", open_place(str(dataset)), ProgressListener()) as recorder:
        recorder.add(0, Tally(Counter({"success": 1})))
    assert (dataset / "report.html").stat().st_mtime_ns > before


def test_the_curves_of_all_runs_are_shown_end_to_end() -> None:
    def run(*rows: int) -> list[dict[str, Any]]:
        lines = [
            {
                "kind": "progress",
                "elapsed_s": float(second),
                "rows": count,
                "bytes": 10 * count,
                "seconds": [count],
            }
            for second, count in enumerate(rows)
        ]
        return [{"kind": "start"}, *lines, {"kind": "end"}]

    material = Material(
        Summary("out"), runs=[run(0, 5, 9), run(0, 0), [{"kind": "start"}], run(2, 4), run(0)]
    )
    assert [line["elapsed_s"] for line in material.progress] == [0, 1, 2, 2, 3]
    assert [line["rows"] for line in material.progress] == [0, 5, 9, 11, 13]
    assert [line["bytes"] for line in material.progress] == [0, 50, 90, 110, 130]
    assert material.progress[-1]["seconds"] == [13]
    assert [line["rows"] for line in material.latest] == [2, 4]


def test_a_run_of_a_second_has_points_not_an_empty_plot(dataset: Path) -> None:
    material = gather(open_place(str(dataset)))
    first, *_, last = material.progress
    material.runs[:] = [[first, last]]
    plots = {plot["id"]: plot for plot in figures(material)}
    for name in ("throughput", "resources"):
        for line in plots[name]["data"]:
            assert 0 < len(line["x"]) <= 2
            assert "markers" in line["mode"]
