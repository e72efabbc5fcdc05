"""How the cores of a machine are shared among its workers."""

from __future__ import annotations

import math
import os
from typing import Final

from turbo_fetch.spec import EngineSpec

CORES_PER_WORKER: Final = 8


def worker_count(engine: EngineSpec, cores: int) -> int:
    """Return how many worker processes to use on a machine of `cores` cores."""
    return math.ceil(cores / CORES_PER_WORKER) if engine.workers == "auto" else engine.workers


def thread_count(engine: EngineSpec, cores: int) -> int:
    """Return how many decoding threads each worker gets on a machine of `cores` cores."""
    return max(1, cores // worker_count(engine, cores)) if engine.threads == "auto" else engine.threads


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
