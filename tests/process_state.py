"""What a process has that is shared by all that runs in it, as plain values that two looks can compare."""

from __future__ import annotations

import asyncio
import gc
import locale
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import uvloop


def state() -> dict[str, Any]:
    """Return the state of this process."""
    # libuv keeps a pipe for its signals from the first loop of a process on.
    uvloop.run(asyncio.sleep(0))
    files = []
    for each in sorted(Path("/proc/self/fd").iterdir()):
        try:
            files.append([each.name, str(each.readlink())])
        except OSError:
            # The one by which the folder was read.
            continue
    loggers = {
        name: [logger.level, len(logger.handlers), logger.propagate, logger.disabled]
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and (logger.level or logger.handlers)
    }
    return {
        "pid": os.getpid(),
        "environ": dict(os.environ),
        "signals": {number.name: str(signal.getsignal(number)) for number in signal.Signals},
        "wakeup": _wakeup(),
        "root logger": [logging.root.level, len(logging.root.handlers), logging.raiseExceptions],
        "loggers": loggers,
        "folder": str(Path.cwd()),
        "path": list(sys.path),
        "finders": [str(each) for each in sys.meta_path],
        "hooks": [str(each) for each in (sys.excepthook, threading.excepthook, sys.displayhook, sys.stdout)],
        "policy": str(type(asyncio.get_event_loop_policy())),
        "files": files,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "collection": [list(gc.get_threshold()), gc.get_freeze_count(), gc.isenabled()],
        "limits": [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)],
        "umask": _umask(),
        "locale": locale.setlocale(locale.LC_ALL),
        "warnings": [str(each) for each in warnings.filters],
        "socket": [socket.getdefaulttimeout(), str(socket.getaddrinfo)],
        "opencv": _opencv(),
    }


def settled(before: dict[str, Any]) -> dict[str, Any]:
    """Return the state once it is as before, or what it is after a minute: threads take a moment to end."""
    ends_s = time.monotonic() + 60
    while (now := state()) != before and time.monotonic() < ends_s:
        time.sleep(0.05)
    return now


def _wakeup() -> int:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    return before


def _umask() -> int:
    before = os.umask(0o22)
    os.umask(before)
    return before


def _opencv() -> list[Any] | None:
    """Return its settings, without importing it."""
    cv2 = sys.modules.get("cv2")
    return None if cv2 is None else [cv2.getNumThreads(), cv2.utils.logging.getLogLevel()]
