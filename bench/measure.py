"""Measure one run of a program: wall time, CPU time and memory of its whole process tree."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SAMPLE_S: Final = 0.1
_WINDOW_S: Final = 1.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PSS_SHARE_OF_TIME: Final = 0.02
_GRACE_S: Final = 20.0


@dataclass(frozen=True)
class Measurement:
    """What one run cost. Peaks are of the sum over all processes; PSS counts shared pages once.

    `steady_cores` is how many cores were busy in the median second.
    """

    exit_code: int
    started_monotonic_s: float
    wall_s: float
    user_s: float
    system_s: float
    peak_rss_bytes: int
    peak_pss_bytes: int
    peak_processes: int
    steady_cores: float
    timed_out: bool
    orphans_killed: int

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all processes, user and system."""
        return self.user_s + self.system_s


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stood at a moment of a run: CPU seconds of the processes alive, and their PSS, 0 if not counted."""

    time_s: float
    """Monotonic."""
    cpu_s: float
    pss_bytes: int


@dataclass
class _Watched:
    """What the samples showed."""

    samples: list[Sample]
    rss_bytes: int = 0
    pss_bytes: int = 0
    processes: int = 0

    def steady_cores(self) -> float:
        """Return the median rate of CPU seconds over windows of a second; processes that end lower it."""
        rates = []
        begin = 0
        for sample in self.samples:
            while sample.time_s - self.samples[begin].time_s >= _WINDOW_S:
                before = self.samples[begin]
                rates.append((sample.cpu_s - before.cpu_s) / (sample.time_s - before.time_s))
                begin += 1
        return statistics.median(rates) if rates else 0.0


def measure(
    command: list[str],
    log: Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    stop_when: Callable[[], bool] = lambda: False,
    samples: list[Sample] | None = None,
) -> Measurement:
    """Run `command` to its end, or interrupt it like Ctrl-C at the deadline or once `stop_when()` holds.

    Its output goes to `log`. Memory is sampled ten times a second; PSS, which is costly for the kernel to
    count, only as often as it takes less than two per cent of the time. What is seen is added to `samples`.
    """
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as output:
        result = Path(folder) / "result.json"
        wrapper = subprocess.Popen(
            [sys.executable, "-m", "bench.reaper", str(result), "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            watched = _Watched([] if samples is None else samples)
            timed_out = _watch(wrapper, timeout_s, stop_when, watched)
        except BaseException:
            _end_tree(wrapper)
            raise
        account = json.loads(result.read_text())
    return Measurement(
        peak_rss_bytes=watched.rss_bytes,
        peak_pss_bytes=watched.pss_bytes,
        peak_processes=watched.processes,
        steady_cores=watched.steady_cores(),
        timed_out=timed_out,
        **account,
    )


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, itself left out; those that end meanwhile may be missing."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        with suppress(OSError):
            for thread in Path(f"/proc/{current}/task").iterdir():
                with suppress(OSError):
                    children = [int(child) for child in (thread / "children").read_text().split()]
                    found += children
                    waiting += children
    return found


def _watch(
    wrapper: subprocess.Popen[bytes], timeout_s: float, stop_when: Callable[[], bool], watched: _Watched
) -> bool:
    deadline = time.monotonic() + timeout_s
    next_pss = 0.0
    interrupted = timed_out = False
    while wrapper.poll() is None:
        now = time.monotonic()
        processes = descendants(wrapper.pid)
        watched.processes = max(watched.processes, len(processes))
        cpu_s, pss_bytes = sum(map(_cpu_s, processes)), 0
        watched.rss_bytes = max(watched.rss_bytes, sum(map(_rss_bytes, processes)))
        if now >= next_pss:
            pss_bytes = sum(map(_pss_bytes, processes))
            watched.pss_bytes = max(watched.pss_bytes, pss_bytes)
            next_pss = now + max(_SAMPLE_S, (time.monotonic() - now) / _PSS_SHARE_OF_TIME)
        watched.samples.append(Sample(now, cpu_s, pss_bytes))
        if not interrupted and (now > deadline or stop_when()):
            timed_out, interrupted = now > deadline, True
            wrapper.send_signal(signal.SIGINT)
            deadline = now + _GRACE_S
        elif interrupted and now > deadline:
            for pid in descendants(wrapper.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            wrapper.wait(_SAMPLE_S)
    return timed_out


def _end_tree(wrapper: subprocess.Popen[bytes]) -> None:
    for pid in [*descendants(wrapper.pid), wrapper.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wrapper.wait()


def _cpu_s(pid: int) -> float:
    with suppress(OSError, IndexError):
        # The name in parentheses may hold spaces; user and system time are the 12th and 13th field after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return 0.0


def _rss_bytes(pid: int) -> int:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    return 0


def _pss_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
