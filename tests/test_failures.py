"""Commands that are given the wrong thing, or meet a place that fails them: one sentence, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import turbo_fetch
from album import album
from jobs import amid, job_spec, start, write_list
from origin import Origin
from processes import PATIENCE_S, descendants, finished
from turbo_fetch.cli.commands import app
from turbo_fetch.cli.failure import no_traceback
from turbo_fetch.dataset.seal import sealed_for_people
from turbo_fetch.spec.specfile import dump_spec

ALBUM = album(12, side=32)
READERS = ("view", "report", "verify", "retry", "refresh", "export")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("dataset")
    with Origin(ALBUM) as origin:
        urls = write_list(folder / "list.parquet", [origin.url(name) for name in ALBUM])
        turbo_fetch.run(job_spec(urls, folder / "out", engine={"workers": 1}))
        yield folder / "out"


@pytest.fixture
def lair(tmp_path: Path) -> Path:
    """A folder with one of every wrong thing."""
    (tmp_path / "list.txt").write_text("http://example.org/a.jpg\n")
    (tmp_path / "spec.toml").write_text('[fetch.input]\nurls = "list.txt"\n[fetch.output]\npath = "out"\n')
    (tmp_path / "broken.toml").write_text("[fetch\n")
    (tmp_path / "latin.toml").write_bytes('# é\n[fetch.input]\nurls = "x"'.encode("latin-1"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("not a dataset")
    (tmp_path / "closed").mkdir()
    (garbled := tmp_path / "garbled" / ".turbo-fetch").mkdir(parents=True)
    for name in ("job", "spec.toml", "manifest"):
        (garbled / name).write_text("[]" if name == "job" else "{")
    return tmp_path


def _invoke(*arguments: str | Path) -> Result:
    ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert isinstance(ended.exception, SystemExit), ended.exception
    return ended


def _options(command: str, folder: Path) -> list[str | Path]:
    return [folder / "target", "--format", "files"] if command == "export" else []


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("list.txt", "list.txt: this is a file; expected a dataset: a folder"),
        ("list.txt/inside", "list.txt: this is a file; expected a dataset: a folder"),
        ("empty", "empty: there is no dataset"),
        ("other", "other: there is no dataset"),
        ("nowhere", "nowhere: there is no dataset"),
        ("garbled", "garbled/"),
    ],
)
def test_what_is_no_dataset_is_told(lair: Path, command: str, place: str, expected: str) -> None:
    if (command, place) == ("view", "garbled"):
        return  # The page itself tells it.
    ended = _invoke(command, lair / place, *_options(command, lair))
    assert expected in ended.stderr
    assert ended.exit_code in {1, 2}
    assert ended.stdout == ""
    assert not (lair / "target").exists()


@pytest.mark.parametrize("command", READERS)
def test_a_server_that_refuses_is_no_missing_dataset(tmp_path: Path, command: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"http://127.0.0.1:{closed.getsockname()[1]}/out"
        ended = _invoke(command, place, *_options(command, tmp_path))
    assert "cannot be read: ClientConnectorError" in ended.stderr
    assert ended.exit_code == 1


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, "there is no such file"),
        (410, "there is no such file"),
        (403, "403"),
        (500, "500"),
        (503, "503"),
    ],
)
def test_a_list_that_is_missing_is_told_apart_from_one_that_is_refused(
    lair: Path, server: str, status: int, expected: str
) -> None:
    ended = _invoke("plan", lair / "spec.toml", "--set", f"fetch.input.urls={server}/{status}/list.txt")
    assert ended.exit_code == 2
    assert expected in ended.stderr
    assert ("cannot be reached" in ended.stderr) is (status not in {404, 410})


def test_a_list_behind_a_closed_port_is_told(lair: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/list.txt"
        ended = _invoke("run", lair / "spec.toml", "--set", f"fetch.input.urls={url}")
    assert ended.exit_code == 2
    assert f"{url}: cannot be reached: Cannot connect" in ended.stderr


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("empty", "empty: this is a folder; expected a TOML spec"),
        ("nowhere.toml", "nowhere.toml: no such file; expected a TOML spec"),
        ("list.txt", "list.txt: not valid TOML"),
        ("broken.toml", "broken.toml: not valid TOML"),
        ("latin.toml", "latin.toml: cannot be read as a UTF-8 text file"),
        ("list.txt/spec.toml", "cannot be read: Not a directory"),
    ],
)
def test_what_is_no_spec_is_told(lair: Path, command: str, spec: str, expected: str) -> None:
    ended = _invoke(command, lair / spec)
    assert ended.exit_code == 2
    assert expected in ended.stderr


@pytest.mark.parametrize("key", ["path", "spool"])
@pytest.mark.parametrize("below", ["", "/deep/er"])
def test_a_file_where_a_folder_is_to_be_made_is_told(lair: Path, key: str, below: str) -> None:
    place = f"{lair}/list.txt{below}"
    ended = _invoke("run", lair / "spec.toml", "--set", f"fetch.output.{key}={place}")
    assert ended.exit_code == 2
    assert f"{lair}/list.txt: this is a file; expected a folder" in ended.stderr


def test_a_run_that_comes_to_nothing_leaves_no_worker_to_the_next_command(lair: Path) -> None:
    """It would have the environment of this one: another cache, other credentials."""
    assert _invoke("run", lair / "spec.toml", "--set", f"fetch.output.path={lair}/list.txt").exit_code == 2
    assert descendants(word="turbo_fetch.runners") == []


@pytest.mark.parametrize("command", ["retry", "refresh", "report"])
def test_a_dataset_that_may_not_be_written_is_told(dataset: Path, tmp_path: Path, command: str) -> None:
    place = tmp_path / "out"
    shutil.copytree(dataset, place)
    for folder in (place / ".turbo-fetch" / "lease", place / ".turbo-fetch", place):
        folder.chmod(0o555)
    # Root may write everywhere, unless it gives that up.
    humble = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*humble, sys.executable, "-m", "turbo_fetch", command, str(place)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    for folder in (place, place / ".turbo-fetch", place / ".turbo-fetch" / "lease"):
        folder.chmod(0o755)
    assert done.returncode == 1, done
    assert "no permission" in done.stderr
    assert "expected a place this user may write to" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dataset_of_open_shards_alone_has_nothing_to_retry_and_the_run_is_to_go_on(tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in ALBUM])
        spec = job_spec(urls, tmp_path / "out", http={"concurrency": 1}, engine={"workers": 1})
        process = start(spec, tmp_path)
        with amid(process, origin, 4):
            process.send_signal(signal.SIGINT)
            finished(process)
        assert list((tmp_path / "out" / ".turbo-fetch").glob("*.spool"))
        for place in (tmp_path / "out", tmp_path / "job.toml"):
            ended = _invoke("retry", place)
            assert ended.exit_code == 2
            assert "no shard is finished yet" in ended.stderr
            assert "`turbo-fetch run` with its spec resumes" in ended.stderr
        assert turbo_fetch.run(spec).fetch.successes == len(ALBUM)


def test_a_retry_of_an_unfinished_dataset_says_that_it_is_one(dataset: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    shutil.copytree(dataset, place)
    job = json.loads((place / ".turbo-fetch/job").read_bytes())
    job["lists"][0]["complete"] = False
    (place / ".turbo-fetch/job").write_bytes(sealed_for_people(job))
    ended = CliRunner().invoke(app, ["retry", str(place), "--quiet"])
    assert ended.exit_code == 0, ended.output
    assert "the list is not done yet: `turbo-fetch run` with its spec continues it" in ended.stdout


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (KeyboardInterrupt(), "turbo-fetch: interrupted", 130),
        (OSError(28, "No space left on device", "/x/y"), "/x/y: No space left on device; free some space", 1),
        (PermissionError(13, "Permission denied", "/x"), "turbo-fetch: /x: Permission denied", 1),
        (ConnectionRefusedError(111, "Connection refused"), "turbo-fetch: Connection refused", 1),
        (MemoryError(), "turbo-fetch: out of memory", 1),
        (KeyError("ray_version"), "turbo-fetch: a bug in turbo-fetch: KeyError: 'ray_version'", 1),
    ],
)
def test_every_exception_is_a_sentence(
    capsys: pytest.CaptureFixture[str], error: BaseException, message: str, code: int
) -> None:
    with pytest.raises(SystemExit) as ended, no_traceback():
        raise error
    told = capsys.readouterr().err
    assert ended.value.code == code
    assert message in told
    assert told.count("\n") == 1
    if "fault" in message:
        log = Path(told.split()[-1])
        assert "KeyError: 'ray_version'" in log.read_text()
        log.unlink()


def test_the_short_form_of_help_is_help(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(dump_spec(job_spec(Path("l"), Path("o"))))
    for command in ([], ["run"], ["run", str(tmp_path / "x.toml")], ["demo"]):
        ended = CliRunner().invoke(app, [*command, "-h"])
        assert ended.exit_code == 0
        assert "Usage" in ended.stdout
