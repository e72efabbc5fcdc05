"""Records a run: a ProgressListener that passes on to another one and to the monitor process.

It never waits: a line for which the socket has no room is left out, and the next one says the same and more,
since counts are of the whole run. The death of the monitor is told and otherwise of no consequence.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from turbo_fetch import __version__
from turbo_fetch.dataset import names
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import SpecError
from turbo_fetch.monitor import records, trackers
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.run_progress import Progress, figures
from turbo_fetch.progress.tally import Tally
from turbo_fetch.redaction import redact
from turbo_fetch.spec import TrackSpec
from turbo_fetch.storage import Storage

END_GRACE_S: Final = 10.0
WANDB_GRACE_S: Final = 60.0
"""Weights & Biases may have to send what it gathered."""
LONGEST_BACKLOG: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RecordPaths:
    """Where the records of a stage go, all on this machine."""

    url: str
    """The output of the stage."""
    path: Path
    """The metrics: in the output if that is local."""
    folder: Path
    """For what trackers write."""
    log: Path
    """What the monitor process prints, which is nothing unless it fails."""

    @classmethod
    def of(cls, storage: Storage, track: TrackSpec) -> RecordPaths:
        """Return where the records of a run into `storage` go; those of earlier runs into it are brought there."""
        work = storage.make_work()
        home = storage.path or work
        path = home / names.METRICS
        path.parent.mkdir(parents=True, exist_ok=True)
        if storage.path is None:
            try:
                path.write_bytes(storage.read_bytes(names.METRICS))
            except FileNotFoundError:
                path.unlink(missing_ok=True)
        return cls(
            url=storage.url,
            path=path,
            folder=Path(track.folder) if track.folder else home / names.LOGS,
            log=work / names.MONITOR_LOG,
        )

    @property
    def run(self) -> str:
        """Name of the run, unless the spec gives one: the last part of the output's address."""
        return self.url.rstrip("/").rpartition("/")[2] or "run"

    def publish(self, storage: Storage) -> None:
        """Publish the records of a remote output; those of a local one are there already."""
        if storage.path is None and self.path.exists():
            storage.write_bytes(names.METRICS, self.path.read_bytes())


def prometheus_socket(track: TrackSpec) -> socket.socket | None:
    """Return the listening socket of the Prometheus endpoint, if one is wanted; SpecError if the port is taken."""
    if "prometheus" not in track.to:
        return None
    endpoint = socket.socket(socket.AF_INET6 if ":" in track.host else socket.AF_INET)
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        endpoint.bind((track.host, track.port))
        # Listening already here means that a second run cannot bind the same port in between.
        endpoint.listen()
    except OSError as error:
        endpoint.close()
        raise SpecError(
            f"track.host {track.host!r} and track.port {track.port} cannot be used: {error.strerror}; "
            "expected an address of this machine and a free port"
        ) from error
    return endpoint


@contextmanager
def recorded(
    track: TrackSpec, stage: str, storage: Storage, listener: ProgressListener
) -> Iterator[Recorder]:
    """Start a monitor process for a stage whose output is `storage`; stop it at the end, noting how that came.

    Yields the ProgressListener to use inside. Raises MissingExtra if a tracker's package is not installed, SpecError
    if the port of the Prometheus endpoint is taken.
    """
    trackers.check(track.to)
    paths = RecordPaths.of(storage, track)
    recorder = Recorder(track, stage, paths, listener)
    how = "failed"
    try:
        yield recorder
        how = "complete"
    except BaseException as error:
        how = "interrupted" if type(error).__name__ == "Interrupted" else f"failed: {error}"
        raise
    finally:
        recorder.close(how)
        paths.publish(storage)


@contextmanager
def tracked(
    track: TrackSpec, stage: str, output: str, listener: ProgressListener
) -> Iterator[ProgressListener]:
    """Record a stage as `recorded` does if there are trackers: what goes in steps has records of its own."""
    if not track.to:
        yield listener
        return
    with recorded(track, stage, open_place(output), listener) as recorder:
        yield recorder


class Recorder(ProgressListener):
    """Watches for the monitor process and for another ProgressListener."""

    def __init__(self, track: TrackSpec, stage: str, paths: RecordPaths, inner: ProgressListener) -> None:
        self._inner = inner
        self._stage = stage
        self._track = track
        self._progress = Progress()
        self._started_s = time.monotonic()
        self._last: dict[str, Any] | None = None
        self._network = (0.0, 0, 0)
        self._backlog = bytearray()
        self._heard = b""
        self._log = paths.log
        self._process, self._socket = self._start(paths)
        self._is_alive = True
        self._send("start", {"version": __version__, "run": paths.run, "pid": os.getpid()})

    def stage(self, name: str) -> None:
        """See ProgressListener."""
        self._inner.stage(name)

    def total(self, rows: int | None, is_estimate: bool) -> None:
        """See ProgressListener."""
        self._progress.total_rows = rows
        self._inner.total(rows, is_estimate)

    def add(self, worker: int, tally: Tally) -> None:
        """See ProgressListener."""
        self._progress.add(worker, tally, time.monotonic())
        self._inner.add(worker, tally)

    def worker_gone(self, worker: int, open_rows: int) -> None:
        """See ProgressListener."""
        self._progress.worker_gone(worker, open_rows)
        self._inner.worker_gone(worker, open_rows)

    def shard_done(self, rows: int, resumed: bool) -> None:
        """See ProgressListener."""
        self._progress.shard_done(rows, resumed)
        self._inner.shard_done(rows, resumed)

    def step(self, done: int, total: int, unit: str, values: Mapping[str, float]) -> None:
        """See ProgressListener."""
        line = {"step": done, "total": total, "unit": unit, "values": dict(values)}
        self._send("step", {"elapsed_s": round(time.monotonic() - self._started_s, 3), **line})
        self._inner.step(done, total, unit, values)

    def phase(self, done: int, total: int, unit: str) -> None:
        """See ProgressListener."""
        self._inner.phase(done, total, unit)

    def picture(self, name: str, path: Path, step: int) -> None:
        """See ProgressListener."""
        self._send("picture", {"name": name, "path": str(path.absolute()), "step": step})
        self._inner.picture(name, path, step)

    def note(self, text: str) -> None:
        """See ProgressListener."""
        self._send("note", {"text": redact(text)})
        self._inner.note(text)

    def refresh(self) -> None:
        """See ProgressListener."""
        elapsed_s = time.monotonic() - self._started_s
        last_s = self._last["elapsed_s"] if self._last else 0.0
        # Other stages count in steps, which trackers must not mix with seconds.
        if self._stage == "fetch" and records.is_due(elapsed_s, last_s, self._track.interval_s):
            self._record(elapsed_s)
        self._listen()
        self._inner.refresh()

    def close(self, how: str) -> None:
        """Say how the run ended, and wait for the monitor; one that does not end in time is killed."""
        if self._progress.workers:
            self._record(time.monotonic() - self._started_s)
        self._send("end", {"how": redact(how)})
        grace_s = WANDB_GRACE_S if "wandb" in self._track.to else END_GRACE_S
        try:
            self._flush_whole(grace_s)
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._inner.note(f"the monitor did not end within {grace_s:.0f} s and was killed")
        self._listen()
        self._socket.close()
        if self._log.exists() and not self._log.stat().st_size:
            self._log.unlink()

    def _start(self, paths: RecordPaths) -> tuple[subprocess.Popen[bytes], socket.socket]:
        endpoint = prometheus_socket(self._track)
        paths.path.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        passed = [theirs.fileno(), *([endpoint.fileno()] if endpoint else [])]
        with theirs, self._log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "turbo_fetch.monitor", str(theirs.fileno())],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        setup = {
            "stage": self._stage,
            "url": paths.url,
            "report_every_s": self._track.report_every_s
            if self._track.report and self._stage == "fetch"
            else 0,
            "path": str(paths.path),
            "folder": str(paths.folder),
            "run": self._track.run or paths.run,
            "to": self._track.to,
            "project": self._track.project,
            "offline": self._track.wandb_mode == "offline",
            "endpoint": endpoint.fileno() if endpoint else None,
        }
        self._backlog += records.dump(setup)
        if endpoint is not None:
            endpoint.close()
        return process, ours

    def _record(self, elapsed_s: float) -> None:
        self._last = figures(self._progress, self._last, elapsed_s)
        self._send("progress", {**self._last, "machine": self._machine()})

    def _machine(self) -> dict[str, int]:
        """Return what the network interfaces of this machine carried per second since the last call."""
        now, counters = time.monotonic(), psutil.net_io_counters()
        (then, received, sent) = self._network
        self._network = (now, counters.bytes_recv, counters.bytes_sent)
        if not then:
            return {}
        elapsed = max(now - then, 1e-9)
        return {
            "received_bytes_per_s": round((counters.bytes_recv - received) / elapsed),
            "sent_bytes_per_s": round((counters.bytes_sent - sent) / elapsed),
        }

    def _send(self, kind: str, line: Mapping[str, Any]) -> None:
        if not self._is_alive or (len(self._backlog) > LONGEST_BACKLOG and kind != "end"):
            return
        self._backlog += records.dump({"kind": kind, "time": time.time(), "stage": self._stage, **line})
        try:
            sent = self._socket.send(self._backlog, socket.MSG_DONTWAIT)
            del self._backlog[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._tell_of_death()

    def _flush_whole(self, grace_s: float) -> None:
        """Send what is left, however long it takes within `grace_s`; raises TimeoutExpired."""
        self._socket.settimeout(grace_s)
        try:
            self._socket.sendall(self._backlog)
            self._socket.shutdown(socket.SHUT_WR)
        except TimeoutError:
            raise subprocess.TimeoutExpired("monitor", grace_s) from None
        except OSError:
            self._tell_of_death()

    def _listen(self) -> None:
        """Pass on what the monitor says."""
        try:
            while content := self._socket.recv(4096, socket.MSG_DONTWAIT):
                self._heard += content
        except OSError:
            pass
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            self._inner.note(line.decode("utf-8", "replace"))

    def _tell_of_death(self) -> None:
        if not self._is_alive:
            return
        self._is_alive = False
        status = self._process.wait()
        why = signal.Signals(-status).name if status < 0 else f"code {status}"
        self._inner.note(
            f"the monitor ended with {why}; the run continues without its metrics and trackers; see {self._log}"
        )
