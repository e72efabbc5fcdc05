"""Which process on which machine: whether one that is named somewhere is of this machine, and still there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_GONE: Final = {"Z", "X"}
_STOPPED: Final = {"T", "t"}


def _machine() -> str:
    """Return what two processes have in common that can see each other by their numbers: a boot, and a namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return os.uname().nodename


_HERE: Final = _machine()


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process: its number, which others may have had before, and what tells it from those."""

    machine: str
    pid: int
    started: str
    """When, in ticks since the machine was started; empty where the system does not say."""

    @classmethod
    def of_this(cls) -> ProcessIdentity:
        """Return that of this process."""
        return cls(_HERE, os.getpid(), _state(os.getpid())[1])

    def is_here(self) -> bool:
        """Return whether it is one that can be seen from here by its number."""
        return self.machine == _HERE

    def is_gone(self) -> bool:
        """Return whether the process has ended; to be asked on its machine."""
        state, started = _state(self.pid)
        return state in _GONE or started != self.started

    def is_stopped(self) -> bool:
        """Return whether the process is held still by a signal or a debugger."""
        return _state(self.pid)[0] in _STOPPED


def _state(pid: int) -> tuple[str, str]:
    """Return the letter of a process's state, `X` if there is none, and when it was started."""
    if not Path("/proc/self/stat").exists():
        return ("R" if psutil.pid_exists(pid) else "X"), ""
    try:
        # Its name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", ""
    return fields[0], fields[19]
