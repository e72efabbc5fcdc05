"""How the cores of a machine are shared among its workers."""

from __future__ import annotations

import math
import os
from typing import Final

from turbo_fetch.spec import DomainSpec, EngineSpec, HttpSpec

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


def share_of_hosts(http: HttpSpec, workers: int) -> HttpSpec:
    """Return the requests as each of several workers makes them, so that all together keep the limits of domains.

    Each gets its part of the places of a domain, rounded down, and at least one; and the pace of one in so many.
    """
    if workers == 1:
        return http
    presets = {name: _share_of_domain(preset, workers) for name, preset in http.domains.items()}
    per_domain = max(1, http.per_domain // workers) if http.per_domain else 0
    return http.model_copy(update={"per_domain": per_domain, "domains": presets})


def _share_of_domain(preset: DomainSpec, workers: int) -> DomainSpec:
    concurrency = None if preset.concurrency is None else max(1, preset.concurrency // workers)
    delay_s = None if preset.delay_s is None else preset.delay_s * workers
    return preset.model_copy(update={"concurrency": concurrency, "delay_s": delay_s})
