"""Run one command and account for every process that it leaves behind.

`python -m bench.reaper RESULT.json -- COMMAND …` becomes the parent of all orphans below it, waits for
each of them, and writes what they cost together. The kernel adds a process to its parent's account when
it is waited for, so the sum is exact, however short-lived the processes were.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36
_ORPHAN_TIMEOUT_S: Final = 20


def main() -> None:
    """Run the command of the arguments; exit with its code."""
    result, separator, *command = sys.argv[1:]
    if separator != "--":
        raise SystemExit("usage: python -m bench.reaper RESULT.json -- COMMAND …")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become the parent of orphans")
    started = time.monotonic()
    process = subprocess.Popen(command)
    # The measured program ends on a signal in its own way; this one waits for it, whatever comes.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: process.send_signal(received))
    exit_code = process.wait()
    wall_s = time.monotonic() - started
    left_behind = _reap_orphans()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    Path(result).write_text(
        json.dumps(
            {
                "exit_code": exit_code,
                "started_monotonic_s": started,
                "wall_s": wall_s,
                "user_s": usage.ru_utime,
                "system_s": usage.ru_stime,
                "orphans_killed": left_behind,
            }
        )
    )
    sys.exit(exit_code if exit_code >= 0 else 128 - exit_code)


def _reap_orphans() -> int:
    """Wait for all remaining descendants; after a deadline kill them. Return how many had to be killed."""
    deadline = time.monotonic() + _ORPHAN_TIMEOUT_S
    killed: set[int] = set()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return len(killed)
        if pid == 0:
            if time.monotonic() > deadline:
                orphans = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
                for orphan in set(map(int, orphans)) - killed:
                    os.kill(orphan, signal.SIGKILL)
                    killed.add(orphan)
            time.sleep(0.01)


if __name__ == "__main__":
    main()
