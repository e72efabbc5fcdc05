"""The Python interface as scripts and notebooks use it."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

import processes
from album import album
from jobs import job_spec, write_list
from origin import Origin
from processes import PATIENCE_S
from turbo_fetch.spec.specfile import dump_spec

IMAGES = album(20, side=32)
SETTING_UP = "import turbo_fetch; spec = turbo_fetch.load_spec('job.toml')"
SILENT = "turbo_fetch.run(spec, turbo_fetch.ProgressListener())"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    # Slow enough for progress to be shown.
    with Origin(IMAGES, latency_s=0.3) as running:
        yield running


@pytest.fixture
def job(origin: Origin, tmp_path: Path) -> Path:
    urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in IMAGES])
    spec = job_spec(urls, tmp_path / "out", http={"concurrency": 4}, engine={"workers": 1})
    (tmp_path / "job.toml").write_text(dump_spec(spec))
    return tmp_path


def _on_a_terminal(script: str, folder: Path) -> str:
    """Run a script as on a terminal; return what that shows, with its control sequences."""
    ours, theirs = pty.openpty()
    process = processes.start(
        [sys.executable, "-c", script],
        cwd=folder,
        env=os.environ | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how a terminal says that nobody is left
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    assert process.wait(PATIENCE_S) == 0, shown
    return shown.decode()


def test_a_script_shows_progress_on_a_terminal(job: Path) -> None:
    shown = _on_a_terminal(f"{SETTING_UP}; turbo_fetch.run(spec)", job)
    assert "of 20 rows" in shown
    assert "in flight" in shown


def test_a_script_that_wants_no_progress_shows_none(job: Path) -> None:
    assert _on_a_terminal(f"{SETTING_UP}; {SILENT}", job) == ""


@pytest.mark.parametrize("call", ["turbo_fetch.run(spec)", "await turbo_fetch.arun(spec)"])
def test_a_notebook_shows_progress_in_a_widget_and_the_account_as_a_value(job: Path, call: str) -> None:
    notebook = new_notebook(cells=[new_code_cell(f"{SETTING_UP}\nprint(({call}).text())")])  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(job)}}).execute()
    printed = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    assert "20 of 20 rows" in printed
    widgets = str(notebook.metadata.widgets)
    assert "of 20 rows" in widgets
    assert "in flight" in widgets
