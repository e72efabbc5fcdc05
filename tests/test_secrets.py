"""Secrets end to end: one run whose list and spec are full of them, then every byte that it wrote of itself."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import processes
from album import album
from jobs import ledger, write_list
from origin import Origin
from processes import PATIENCE_S, free_port, wait_until

ALBUM = album(12, side=40)
SECRET = "hush"
"""Part of every secret, and of nothing else."""
DENIED = 14
"""Row of the list that is on the deny list."""

SPEC = """
[fetch.input]
urls = "{urls}"
caption_column = "caption"
keep_columns = []
[fetch.http]
allow_private_addresses = true
robots = "respect"
tdm = "respect"
timeout_s = 200
stall_timeout_s = 200
retries = 1
backoff_s = 0.01
headers = {{ Authorization = "Bearer ${{TOKEN}}", X-Api-Key = "hush-literal", X-Reason = "${{REASON}}" }}
secret_headers = ["x-own"]

[fetch.http.domains."127.0.0.1"]
headers = {{ Cookie = "hush-cookie", X-Own = "hush" }}
[fetch.image]
size = 40
[fetch.deny]
urls = ["{deny}"]
[fetch.duplicates]
by = ["url", "hash"]
[fetch.output]
path = "{out}"
samples_per_shard = 10
[track]
to = ["tensorboard", "prometheus"]
port = {port}
"""


def _urls(origin: Origin) -> list[str | None]:
    """Return addresses with secrets that end in as many ways as there are."""
    signed = {"X-Amz-Signature": "hush-amz", "X-Amz-Credential": "hush-credential", "Expires": 60}
    host = origin.base.removeprefix("http://")
    onward = f"{origin.base}/00003.jpg?sig=hush-onward&w=1"
    return [
        origin.url("00000.jpg") + "?token=hush-token",
        origin.url("00001.jpg", "status", code=503, times=1, **signed),
        origin.url("00002.jpg", "status", code=404, **signed),
        origin.url("00003.jpg", "status", code=403, api_key="hush-key"),
        origin.url("00004.jpg", "redirect_to", to=onward),
        origin.url("00005.jpg", "redirect_to", to=f"http://user:hush-user@{host}/00005.jpg"),
        origin.url("00006.jpg", "redirect_to", to="ftp://user:hush-ftp@a.example/x?token=hush-ftp"),
        origin.url(
            "00006.jpg", "redirect_to", to=f"{origin.base}/gone.jpg?token=hush-gone#access_token=hush-hash"
        ),
        origin.url("00007.jpg", "redirect_loop", secret="hush-loop"),
        origin.url("00008.jpg", "truncated", signature="hush-cut"),
        f"http://user:hush-password@{host}/00009.jpg",
        f"http://127.0.0.1:{free_port()}/x.jpg?access_token=hush-refused",
        "http://[bad/x.jpg?token=hush-bad",
        "file:///x?password=hush-file",
        origin.url("00010.jpg") + "?token=hush-denied",
        origin.url("00000.jpg") + "?token=hush-token",
        origin.url("robots-say-no.jpg") + "?token=hush-robots",
        f"{origin.base}/proxy?url=http%3A%2F%2Fu%3Ahush-nested%40a.example%2Fx%3Ftoken%3Dhush-nested",
    ]


@dataclass(frozen=True, slots=True)
class Made:
    """A dataset, its list, and what the commands said, by what was asked."""

    out: Path
    urls: list[str | None]
    said: dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("secrets")
    out, spec, port = folder / "out", folder / "job.toml", free_port()
    images = _Held({**ALBUM, "robots.txt": b"User-agent: *\nDisallow: /robots-say-no.jpg\n"})
    with Origin(images, latency_s=0.1) as origin:
        urls = _urls(origin)
        listed = write_list(folder / "list.parquet", urls)
        (folder / "deny.txt").write_text(f"{urls[DENIED]}\n")
        spec.write_text(SPEC.format(urls=listed, deny=folder / "deny.txt", out=out, port=port))
        said = {}
        with ThreadPoolExecutor(1) as thread:
            ended = threading.Event()
            scraped = thread.submit(_scraped, port, ended)
            scraped.add_done_callback(lambda _: images.go_on.set())
            try:
                said["run on a terminal"] = _on_terminal("run", str(spec))
            finally:
                ended.set()
            said["prometheus"] = scraped.result()
        over = ("--set", "fetch.output.if_exists=overwrite")
        said["run"] = _plain("run", str(spec), *over)
        said["plan"] = _plain("plan", str(spec))
        said["retry"] = _plain("retry", str(spec), "--json")
        said["refresh"] = _plain("refresh", str(spec))
        said["refused"] = _plain("run", str(spec), "--set", "fetch.image.size=9")
        said["bad"] = _plain("run", str(spec), "--set", "fetch.http.proxy=ftp://u:hush-proxy@x")
        lost = f"fetch.input.urls={origin.base}/list.parquet?token=hush-list"
        said["lost"] = _plain("run", str(spec), "--set", lost, "--set", f"fetch.output.path={folder / 'no'}")
        said["view"] = _viewed(out)
        sent = {name: value for one in origin.received for name, value in one.headers.items()}
    assert sent["authorization"] == "Bearer hush-environment"
    assert sent["x-own"] == "hush"
    return Made(out, urls, said)


class _Held(dict[str, bytes]):
    """Pictures of an origin that waits with all of them until the metrics of the run have been read."""

    def __init__(self, images: Mapping[str, bytes]) -> None:
        super().__init__(images)
        self.go_on = threading.Event()

    def get(self, name: str, default: Any = None, /) -> Any:
        self.go_on.wait(timeout=PATIENCE_S)
        return super().get(name, default)


def _scraped(port: int, ended: threading.Event) -> str:
    """Return what the endpoint says once a run has something to say there; nothing if it never has."""

    def said() -> str:
        with suppress(urllib.error.URLError, ConnectionError):
            return _get(f"http://127.0.0.1:{port}/metrics")
        return ""

    found = wait_until("metrics, or the end of the run", lambda: said() or ended.is_set())
    return found if isinstance(found, str) else ""


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def _viewed(out: Path) -> str:
    """Return all that the pages of `turbo-fetch view` are told."""
    command = [sys.executable, "-m", "turbo_fetch", "view", str(out), "--port", "0"]
    with processes.started(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        told = [_get(f"{address}{path}") for path in ("api/dataset", "api/rows?limit=200", "api/live")]
    return "".join(told)


def _environment() -> dict[str, str]:
    return {**os.environ, "TOKEN": "hush-environment", "REASON": "hush-reason"}


def _plain(*arguments: str) -> str:
    """Return what a command says elsewhere than on a terminal."""
    command = [sys.executable, "-m", "turbo_fetch", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout + ended.stderr


def _on_terminal(*arguments: str) -> str:
    """Return what a command says on a terminal."""
    ours, theirs = pty.openpty()
    said: list[bytes] = []

    def listen() -> None:
        try:
            while content := os.read(ours, 65_536):
                said.append(content)
        except OSError:
            return

    listener = threading.Thread(target=listen)
    listener.start()
    command = [sys.executable, "-m", "turbo_fetch", *arguments]
    try:
        environment = {**_environment(), "COLUMNS": "300", "TERM": "xterm"}
        subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, check=True)
    finally:
        os.close(theirs)
        listener.join()
        os.close(ours)
    return b"".join(said).decode("utf-8", "replace")


def test_the_run_met_every_end_that_was_laid_out(made: Made) -> None:
    outcomes = [row["outcome"] for row in ledger(made.out)]
    assert {"success", "http-4xx", "redirect", "truncated", "url", "connect"} <= set(outcomes)
    assert {"denied", "duplicate", "robots"} <= set(outcomes)
    assert "turbo_fetch_rows_total" in made.said["prometheus"]
    assert made.said["view"].count('"outcome"') >= len(made.urls)
    assert "asked" in made.said["refresh"]
    assert "asked" in made.said["retry"]
    assert "18" in made.said["plan"]
    assert "was begun with another spec" in made.said["refused"]
    assert "proxy" in made.said["bad"]
    assert "list.parquet" in made.said["lost"]


def test_no_command_says_a_secret(made: Made) -> None:
    for command, text in made.said.items():
        assert SECRET not in text, (command, text)


def test_no_file_that_a_run_writes_of_itself_holds_one(made: Made) -> None:
    own = [path for path in sorted(made.out.rglob("*")) if path.is_file() and not _is_data(path)]
    names = {path.name for path in own}
    assert {
        "spec.toml",
        "job",
        "manifest",
        "metrics",
        "report.html",
        "README.md",
    } <= names
    assert any("tfevents" in name for name in names)
    for path in own:
        content = path.read_bytes()
        if path.suffix in {".parquet", ".ledger", ".refresh"}:
            content = json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
        assert SECRET.encode() not in content, (path, _around(content))


def _is_data(path: Path) -> bool:
    """Return whether a file holds what the list said: images, and metadata with the list's own columns."""
    is_metadata = path.suffix == ".parquet" and path.stem.isdigit() and path.parent.name == "out"
    return path.suffix == ".tar" or is_metadata


def _around(content: bytes) -> bytes:
    place = content.index(SECRET.encode())
    return content[max(0, place - 200) : place + 50]


def test_the_list_itself_is_kept_as_it_was_and_nothing_beside_it(made: Made) -> None:
    tables = [pq.read_table(path) for path in sorted(made.out.glob("0*.parquet"))]
    urls = [url for table in tables for url in table.column("url").to_pylist()]
    assert urls == made.urls
    for table in tables:
        assert SECRET not in json.dumps(table.drop_columns(["url"]).to_pylist(), default=str)
