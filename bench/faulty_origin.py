"""Start and question the server with latency and faults, which runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.origin import stop


@dataclass(frozen=True)
class Marks:
    """Requests that the server saw since the last reset; times are monotonic seconds of this machine."""

    arrivals_monotonic_s: tuple[float, ...]
    peak_in_flight: int


@dataclass(frozen=True)
class FaultyOrigin:
    """A running server."""

    url: str
    pid: int

    def marks(self) -> Marks:
        """Return what it has seen."""
        return self._ask("marks")

    def reset(self) -> None:
        """Make it forget what it has seen."""
        self._ask("reset")

    def _ask(self, verb: str) -> Marks:
        with urllib.request.urlopen(f"{self.url}/-/{verb}", timeout=10) as response:
            answer = json.load(response)
        return Marks(tuple(answer["arrivals_monotonic_s"]), answer["peak_in_flight"])


@contextmanager
def serve_faulty(
    root: Path, latency_ms: float, faults: bool = False, port: int = 0, dribble_s: int = 20
) -> Iterator[FaultyOrigin]:
    """Serve the files of `root` with latency, and with faults if asked, until the block ends."""
    command = [sys.executable, "-m", "bench.faulty_server", "--root", str(root), "--port", str(port)]
    command += ["--latency-ms", str(latency_ms), "--dribble-s", str(dribble_s)]
    command += ["--faults"] if faults else []
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"the server did not start: {' '.join(command)}")
        yield FaultyOrigin(f"http://127.0.0.1:{int(line)}", process.pid)
    finally:
        stop(process)
        if process.stdout is not None:
            process.stdout.close()
