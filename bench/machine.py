"""What a figure depends on: the machine, the versions, and the moment."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TypedDict


class Machine(TypedDict):
    """Hardware and system; memory in bytes."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    load_average_before: float


def describe_machine() -> Machine:
    """Return what this machine is and how busy it is now."""
    return Machine(
        cpu=_first_value("/proc/cpuinfo", "model name"),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=int(_first_value("/proc/meminfo", "MemTotal").split()[0]) * 1024,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load_average_before=os.getloadavg()[0],
    )


def our_versions() -> dict[str, str]:
    """Return the versions of turbo-fetch, of what it stands on, and the commit that was measured."""
    names = ("turbo-fetch", "aiohttp", "uvloop", "pyarrow", "opencv-python-headless", "numpy")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    versions["commit"] = commit.stdout.strip()
    return versions


def now() -> str:
    """Return the date and time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _first_value(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"
