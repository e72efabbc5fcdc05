"""Steps as tasks of a Ray cluster, which Ray starts again elsewhere if their process or node dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import ray
from ray.exceptions import RayError, RayTaskError

from turbo_fetch import __version__
from turbo_fetch.errors import ClusterError, ShardFailed
from turbo_fetch.runners.ray.cluster import SPREAD, alive_nodes, connected, shortage
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.step import AHEAD, TICK_S, Onlooker, RemoteWork, check
from turbo_fetch.runners.waiting import Waiting
from turbo_fetch.spec import EngineSpec
from turbo_fetch.stop import StopRequest

DEATHS: Final = 8
"""How often a step is begun again whose process or node died."""
LOOK_FOR_NODES_EVERY_S: Final = 5.0


def run_on_ray(
    work: RemoteWork, steps: Iterator[Any], engine: EngineSpec, progress: Onlooker, stop: StopRequest
) -> Iterator[Any]:
    """Yield what `work` returns of each step; see `run_steps`."""
    waiting = Waiting(progress.note, stop)
    with connected(engine.address, waiting):
        run = ray.remote(_run).options(num_cpus=1, max_retries=DEATHS, scheduling_strategy=SPREAD)
        shared = ray.put(work)
        running: list[Any] = []
        most, looked_s = 0, -LOOK_FOR_NODES_EVERY_S
        try:
            while True:
                check(stop)
                if time.monotonic() - looked_s >= LOOK_FOR_NODES_EVERY_S:
                    most, looked_s = _at_once(engine), time.monotonic()
                running += [run.remote(shared, step) for step in islice(steps, max(0, most - len(running)))]
                if not running:
                    return
                ray.wait(running, num_returns=1, timeout=TICK_S)
                ended, running = ray.wait(running, num_returns=len(running), timeout=0)
                progress.refresh()
                _tell_shortage(waiting, engine, is_moving=bool(ended))
                for each in ended:
                    yield _result(each)
        finally:
            for each in running:
                with suppress(RayError):
                    ray.cancel(each, force=True)


def _run(work: RemoteWork, step: Any) -> Any:
    return work(step)


def _at_once(engine: EngineSpec) -> int:
    """Return how many steps to hand over: those that wait are what makes an autoscaler add nodes."""
    return AHEAD * max(1, sum(alive_nodes().values())) if engine.workers == "auto" else engine.workers


def _tell_shortage(waiting: Waiting, engine: EngineSpec, is_moving: bool) -> None:
    """Say that nothing can start where no node has a core."""
    has_cores = is_moving or max(alive_nodes().values(), default=0) >= 1
    if has_cores:
        waiting.over()
    else:
        waiting.tell(shortage(engine, 0) or "nodes with cores")


def _result(task: Any) -> Any:
    try:
        return ray.get(task)
    except RayTaskError as error:
        raise ClusterError(
            f"a step failed on the cluster: {cause_in(str(error))}; expected turbo-fetch {__version__} and all that it "
            "needs on every node. What was finished is kept"
        ) from error
    except RayError as error:
        raise ShardFailed(
            f"a process of the cluster died {DEATHS + 1} times on one step: {cause_in(str(error))}; what was finished "
            "is kept"
        ) from error
