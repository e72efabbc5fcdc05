"""Measurements of this machine, for the advice that `advice.py` derives from them."""

from __future__ import annotations

import os
import platform
import resource
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import psutil

from turbo_fetch.doctor.accelerator import versions_of
from turbo_fetch.doctor.proxy import ProxyCheck
from turbo_fetch.fetch.resolver import MAX_THREADS, Lookup, system_lookup
from turbo_fetch.runners.cpu_allocation import available_cores
from turbo_fetch.storage.disk import existing_part, free_bytes

LOOKUP_S: Final = 5.0
NAMES: Final = (
    *(
        "wikipedia.org",
        "wikimedia.org",
        "github.com",
        "python.org",
        "debian.org",
        "archive.org",
        "flickr.com",
    ),
    *(
        "kernel.org",
        "mozilla.org",
        "w3.org",
        "ietf.org",
        "gnu.org",
        "apache.org",
        "rust-lang.org",
        "arxiv.org",
    ),
)
PACKAGES: Final = ("turbo-fetch", "aiohttp", "uvloop", "pyarrow", "opencv-python-headless", "numpy", "plotly")


@dataclass(frozen=True, slots=True)
class Lookups:
    """What a measurement of the resolver found: answers per second, and how many of `asked` failed."""

    asked: int
    failed: int
    seconds: float

    @property
    def per_s(self) -> float:
        """Good answers per second."""
        return (self.asked - self.failed) / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class Machine:
    """What matters of this machine."""

    lookups: Lookups | None
    """None if the resolver was not asked."""
    open_files: int
    """Soft limit of open files; -1 is none."""
    open_files_hard: int
    cores: int
    """Cores that this process may use."""
    cores_total: int
    resolver_threads: int
    memory_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int
    disk: str
    """The folder whose disk was looked at."""
    python: str
    system: str
    versions: dict[str, str]
    proxies: tuple[ProxyCheck, ...] = ()


def measure_lookups(
    names: Sequence[str] = NAMES, lookup: Lookup = system_lookup, deadline_s: float = LOOKUP_S
) -> Lookups:
    """Ask the resolver for all names at once, as a run does; names that are late have failed."""
    answers: SimpleQueue[bool] = SimpleQueue()

    def ask(name: str) -> None:
        try:
            answers.put(bool(lookup(name, socket.AF_UNSPEC)))
        except OSError:
            answers.put(False)

    started_s = time.monotonic()
    for name in names:
        threading.Thread(target=ask, args=(name,), daemon=True).start()
    good = 0
    for _ in names:
        try:
            good += answers.get(timeout=max(0.0, started_s + deadline_s - time.monotonic()))
        except Empty:
            break
    return Lookups(len(names), len(names) - good, time.monotonic() - started_s)


def measure(folder: Path, lookups: Lookups | None, proxies: tuple[ProxyCheck, ...] = ()) -> Machine:
    """Return what matters of this machine for a dataset in `folder`, which need not be there yet."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory = psutil.virtual_memory()
    return Machine(
        lookups=lookups,
        open_files=soft,
        open_files_hard=hard,
        cores=available_cores(),
        cores_total=os.cpu_count() or 1,
        resolver_threads=MAX_THREADS,
        memory_bytes=memory.total,
        memory_free_bytes=memory.available,
        disk_free_bytes=free_bytes(folder),
        disk=str(existing_part(folder)),
        python=sys.version.split()[0],
        system=platform.platform(),
        versions=versions_of(PACKAGES),
        proxies=proxies,
    )
