"""Runs as if on several machines: each has a work folder, an identity and a clock of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

import processes
from processes import wait_until
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec

SILENCE_S = 3.0
_MAIN = f"""
import sys
from turbo_fetch.dataset import lease, process_identity
from turbo_fetch.storage.hub import HubStorage

machine, *arguments = sys.argv[1:]
lease.SILENCE_S = {SILENCE_S}
HubStorage.change_every_s = lease.SILENCE_S / lease.BEATS
if machine:
    process_identity._HERE = machine
sys.argv = ["turbo-fetch", *arguments]
from turbo_fetch.cli import main

main()
"""


def start_on(
    machine: str,
    spec: Spec,
    folder: Path,
    *arguments: str,
    clock_ahead_s: int = 0,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start `turbo-fetch run` on a machine, the real one if it has no name, in a process group of its own."""
    home = folder / (machine or "here")
    home.mkdir(exist_ok=True)
    path = home / "job.toml"
    path.write_text(dump_spec(spec))
    ahead = str(clock_ahead_s)
    clock = ["unshare", "--time", "--boottime", ahead, "--monotonic", ahead] if clock_ahead_s else []
    return start_command_on(
        machine,
        ["run", str(path), "--quiet", *arguments],
        {**os.environ, "XDG_CACHE_HOME": str(home), **(environment or {})},
        before=clock,
    )


def start_command_on(
    machine: str, arguments: Sequence[str], environment: Mapping[str, str], before: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start a command of turbo-fetch on a machine, in a process group of its own."""
    return processes.start(
        [*before, sys.executable, "-c", _MAIN, machine, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )


def stands_still(running: subprocess.Popen[str], whom: str = "group") -> bool:
    """Return when all processes of a run stand still, or its parent, or false when it ended."""

    def stand_still() -> bool:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(running.pid)
            tree = [parent, *(parent.children(recursive=True) if whom == "group" else [])]
            return {process.status() for process in tree} <= {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
        return False

    wait_until("that it stands still, or its end", lambda: running.poll() is not None or stand_still())
    return running.returncode is None
