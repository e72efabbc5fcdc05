"""Who reads what a command prints, and how, never ends it: pipes, terminals, disks and locales as they are."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

import processes
from album import album
from jobs import amid, job_spec, write_list
from origin import Origin
from processes import PATIENCE_S, finished
from turbo_fetch.cli.streams import _readable
from turbo_fetch.spec.specfile import dump_spec

ALBUM = album(40, side=32)
PROGRAM = f"{sys.executable} -m turbo_fetch"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin(ALBUM, latency_s=0.02) as origin:
        yield origin


def _spec_file(origin: Origin, folder: Path, concurrency: int = 32) -> Path:
    urls = write_list(folder / "list.parquet", [origin.url(name) for name in ALBUM])
    spec = job_spec(urls, folder / "out", http={"concurrency": concurrency}, engine={"workers": 1})
    path = folder / "job.toml"
    path.write_text(dump_spec(spec))
    return path


def _shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; its last line prints the exit code of the first command."""
    return subprocess.run(
        ["bash", "-c", f"{command}; echo code ${{PIPESTATUS[0]}} >&9"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=PATIENCE_S,
        check=False,
    )


def _ended(command: str, tmp_path: Path, **environment: str) -> tuple[int, str]:
    code = tmp_path / "code"
    done = _shell(f"exec 9>{code}; {command}", **environment)
    return int(code.read_text().split()[1]), done.stdout


@pytest.mark.parametrize(
    "streams",
    ["| head -1", "2>&1 | true", ">&-", "2>&-", "<&- >&- 2>&-"],
)
def test_a_reader_that_goes_ends_no_run(origin: Origin, tmp_path: Path, streams: str) -> None:
    spec = _spec_file(origin, tmp_path)
    code, said = _ended(f"{PROGRAM} run {spec} {streams}", tmp_path)
    assert code == 0, said
    assert "Traceback" not in said
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1


@pytest.mark.parametrize("command", ["schema", "--help", "no-command"])
@pytest.mark.parametrize("streams", ["| true", "2>&1 | true", "<&- >&- 2>&-"])
def test_a_reader_that_goes_changes_no_exit_code(tmp_path: Path, command: str, streams: str) -> None:
    code, said = _ended(f"{PROGRAM} {command} {streams}", tmp_path)
    assert code == (2 if command == "no-command" else 0)
    assert "Traceback" not in said


@pytest.mark.linux
def test_a_full_disk_behind_standard_output_is_told(tmp_path: Path) -> None:
    code, said = _ended(f"{PROGRAM} schema >/dev/full", tmp_path)
    assert code == 1
    assert said == "turbo-fetch: standard output: No space left on device; the output is incomplete\n"


def test_a_pipe_that_takes_nothing_for_a_while_gets_everything(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = processes.start([sys.executable, "-m", "turbo_fetch", "schema"], stdout=writer)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        first = pipe.read(1)
        assert (first + pipe.read()).rstrip().endswith("}")
    assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "nowhere.UTF-9"},
    ],
)
@pytest.mark.parametrize("command", ["--help", "img2dataset --help"])
def test_every_locale_gets_the_help(tmp_path: Path, locale: dict[str, str], command: str) -> None:
    code, said = _ended(f"{PROGRAM} {command}", tmp_path, **locale)
    assert code == 0, said
    assert "Traceback" not in said


def test_what_an_encoding_lacks_is_written_in_ascii() -> None:
    text = "DNS … → 日 \udcff"
    error = UnicodeEncodeError("latin-1", text, 0, len(text), "")
    assert _readable(error) == ("DNS ... -> \\u65e5 \\udcff", len(text))


def test_a_file_name_that_is_no_text_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "turbo_fetch", "run", os.fsencode(tmp_path) + b"/\xff.toml"],
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert b"udcff.toml: no such file" in done.stderr


def test_a_run_whose_terminal_is_closed_saves_what_arrived(origin: Origin, tmp_path: Path) -> None:
    spec = _spec_file(origin, tmp_path, concurrency=1)
    ours, theirs = pty.openpty()
    process = processes.start(
        [sys.executable, "-m", "turbo_fetch", "run", str(spec)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
    )
    os.close(theirs)
    with amid(process, origin, 5):
        os.close(ours)
        assert process.wait(PATIENCE_S) == 130
    assert '"how":"interrupted"' in (tmp_path / "out" / ".turbo-fetch/metrics").read_text()
    assert list((tmp_path / "out" / ".turbo-fetch").glob("*.spool"))


def test_a_run_under_nohup_goes_on(origin: Origin, tmp_path: Path) -> None:
    spec = _spec_file(origin, tmp_path, concurrency=4)
    process = processes.start(
        ["nohup", sys.executable, "-m", "turbo_fetch", "run", str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with amid(process, origin, 5):
        os.killpg(process.pid, signal.SIGHUP)
    out, err = finished(process)
    assert process.returncode == 0, err
    assert "40 of 40 rows" in out
