"""The monitor process: writes the metrics and feeds the trackers, so that nobody who works waits for them.

It reads lines from the parent until their end; when the parent is gone without a word, that is recorded too.
What a person should know goes back as lines of text. A tracker that fails is left out from then on.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path
from typing import Any

import orjson

from turbo_fetch.monitor import records
from turbo_fetch.monitor.trackers import Tracker
from turbo_fetch.stop import leave_signals_to_parent


class _Monitor:
    def __init__(self, setup: dict[str, Any], answers: socket.socket) -> None:
        self._answers = answers
        self._stage = str(setup["stage"])
        self._trackers: dict[str, Tracker] = {}
        self._ended = False
        self._url = str(setup["url"])
        self._report_every_s = float(setup["report_every_s"])
        self._reported_s = time.monotonic()
        path = Path(setup["path"])
        records.mend(path)
        self._file: BufferedWriter = path.open("ab")
        for name in setup["to"]:
            with self._forgiving(name):
                self._trackers[name] = _open(name, setup)

    def take(self, line: records.Line) -> None:
        """Record a line, and hand it to the trackers if it has figures."""
        self._ended = self._ended or line["kind"] == "end"
        self._file.write(records.dump(line))
        self._file.flush()
        if line["kind"] not in {"progress", "step", "picture"}:
            return
        for name, tracker in list(self._trackers.items()):
            with self._forgiving(name):
                tracker.take(line)
        if self._report_every_s and time.monotonic() - self._reported_s >= self._report_every_s:
            with self._forgiving("report"):
                _renew_report(self._url)
            self._reported_s = time.monotonic()

    def close(self) -> None:
        """End everything; a parent that did not say how the run ended was killed."""
        if not self._ended:
            self.take({"kind": "end", "time": time.time(), "stage": self._stage, "how": "killed"})
        self._file.close()
        for name, tracker in list(self._trackers.items()):
            with self._forgiving(name):
                tracker.close()

    @contextlib.contextmanager
    def _forgiving(self, name: str) -> Iterator[None]:
        try:
            yield
        # Third parties fail in ways of their own, and the run matters more than any of them.
        except Exception as error:
            self._trackers.pop(name, None)
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self._tell(f"track: {name} failed; the run continues without it ({text})")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._answers.sendall(text.encode() + b"\n")


def _open(name: str, setup: dict[str, Any]) -> Tracker:
    folder, run = Path(setup["folder"]), str(setup["run"])
    if name == "tensorboard":
        from turbo_fetch.monitor.trackers.tensorboard import TensorBoard

        return TensorBoard(folder, f"{run}-{setup['stage']}")
    if name == "wandb":
        from turbo_fetch.monitor.trackers.wandb import WeightsAndBiases

        return WeightsAndBiases(folder, setup["project"], run, setup["stage"], setup["offline"])
    from turbo_fetch.monitor.trackers.prometheus import Prometheus

    return Prometheus(socket.socket(fileno=setup["endpoint"]))


def _renew_report(url: str) -> None:
    """Write the report of what is committed so far, if that is anything."""
    # Only long runs come here, and only they pay for the imports.
    from turbo_fetch.startup import without_pandas

    without_pandas()
    from turbo_fetch.dataset.place import open_place
    from turbo_fetch.errors import InputError
    from turbo_fetch.monitor.report import write_report

    with contextlib.suppress(InputError):
        write_report(open_place(url))


def main() -> None:
    """Run the monitor on the socket whose descriptor is the first argument, until the other end closes it."""
    leave_signals_to_parent()
    with socket.socket(fileno=int(sys.argv[1])) as parent, parent.makefile("rb") as lines:
        first = lines.readline()
        if not first:
            return
        monitor = _Monitor(orjson.loads(first), parent)
        try:
            with contextlib.suppress(ConnectionError):
                for text in lines:
                    if text.endswith(b"\n"):
                        monitor.take(orjson.loads(text))
        finally:
            monitor.close()
