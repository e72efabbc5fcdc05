"""Tries an installed turbo-fetch, with the standard library alone: a run, its report, and the pages of the viewer.

try_wheel.py PATH/TO/turbo-fetch
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
import threading
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFklEQVR42mOoCNAgCTGMahjVMHw1AADokfABVyG22wAAAABJRU5ErkJggg=="
)
SPEC = """
[fetch.input]
urls = "list.txt"
[fetch.http]
allow_private_addresses = true
[fetch.output]
path = "out"
"""
PAGES = ("", "view.js", "view.css", "plotly.min.js", "api/rows", "picture/0/0")


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and writes no log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""


def main(command: str) -> None:
    """Run everything; raises where something is missing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.png").write_bytes(PICTURE)
        (folder / "spec.toml").write_text(SPEC)
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=name)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            (folder / "list.txt").write_text(f"http://127.0.0.1:{server.server_port}/a.png\n")
            subprocess.run([command, "run", "spec.toml", "--quiet"], cwd=folder, check=True)
            server.shutdown()
        (folder / "out" / "report.html").unlink()
        subprocess.run([command, "report", "out"], cwd=folder, check=True)
        report = (folder / "out" / "report.html").read_text()
        assert "Plotly" in report, "the report lacks its plots"
        assert "<figure" in report, "the report lacks its samples"
        subprocess.run([command, "view", "--help"], stdout=subprocess.DEVNULL, check=True)
        view(command, folder)


def view(command: str, folder: Path) -> None:
    """Ask the viewer for every page that a browser would."""
    started = [command, "view", "out", "--port", "0"]
    with subprocess.Popen(started, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        for page in PAGES:
            with urllib.request.urlopen(address + page, timeout=30) as answer:
                assert answer.read(), f"the page {page!r} is empty"
        process.terminate()
    assert process.returncode == 0, f"view ended with {process.returncode}"


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).absolute()))
