"""Many independent steps, one per shard, wherever the engine is: in processes here, or all over a cluster.

A step is CPU work on what every machine sees. Its result counts once, whichever of several tries it is of: what a step
writes is either the same each time, or goes into an attempt (:mod:`turbo_fetch.dataset.attempts`).
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from turbo_fetch import errors
from turbo_fetch.errors import ShardFailed
from turbo_fetch.runners.cpu_allocation import available_cores
from turbo_fetch.runners.messages import JobError
from turbo_fetch.runners.step import AHEAD, TICK_S, Onlooker, RemoteWork, check
from turbo_fetch.spec import EngineSpec
from turbo_fetch.startup import without_pandas
from turbo_fetch.stop import StopRequest

STEPS_PER_PROCESS: Final = 16
"""With fewer steps a further process takes longer to start than they do."""

Step = TypeVar("Step")
Result = TypeVar("Result")


def run_steps(
    work: Callable[[Step], Result],
    steps: Iterator[Step],
    engine: EngineSpec,
    progress: Onlooker,
    stop: StopRequest,
) -> Iterator[Result]:
    """Yield the results of `work` on each step, in the order in which they end.

    `engine.workers` is how many there are at once, by default one per core of this machine or of the cluster. `work`
    and its steps are pickled unless that is one here. Raises what `work` raises, and Interrupted when asked to stop,
    both here after what had begun has ended; ShardFailed if processes die, ClusterError if there is no cluster.
    """
    if engine.kind == "ray":
        from turbo_fetch.runners.ray.steps import run_on_ray

        yield from map(_taken, run_on_ray(RemoteWork(work), steps, engine, progress, stop))
    elif engine.kind == "spark":
        from turbo_fetch.runners.spark.steps import run_on_spark

        yield from map(_taken, run_on_spark(RemoteWork(work), steps, engine, progress, stop))
    else:
        processes = available_cores() if engine.workers == "auto" else engine.workers
        yield from _run_here(work, steps, processes, progress, stop)


@dataclass(frozen=True, slots=True)
class EngineSteps:
    """Steps of a command that has an engine: what is short is done in this process."""

    engine: EngineSpec
    progress: Onlooker
    stop: StopRequest

    @property
    def is_here(self) -> bool:
        """Whether they are done on this machine alone."""
        return self.engine.kind == "local"

    def run(
        self, work: Callable[[Step], Result], steps: Sequence[Step], here: bool = False
    ) -> Iterator[Result]:
        """Yield the results in the order in which they come; with `here`, of work on this machine."""
        engine = self.engine.model_copy(update={"workers": "auto"})
        if here or self.is_here:
            processes = min(available_cores(), 1 + len(steps) // STEPS_PER_PROCESS)
            engine = EngineSpec(workers=processes)
        return run_steps(work, iter(steps), engine, self.progress, self.stop)

    def check(self) -> None:
        """Raise Interrupted if asked to stop."""
        check(self.stop)


def _taken(result: Any) -> Any:
    if isinstance(result, JobError):
        raise errors.named(result.kind, result.message)
    return result


def _run_here(
    work: Callable[[Step], Result],
    steps: Iterator[Step],
    processes: int,
    progress: Onlooker,
    stop: StopRequest,
) -> Iterator[Result]:
    if processes == 1:
        for step in steps:
            check(stop)
            yield work(step)
            progress.refresh()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin) as pool:
        running: set[Future[Result]] = set()
        try:
            while True:
                check(stop)
                for step in islice(steps, processes * AHEAD - len(running)):
                    running.add(pool.submit(work, step))
                if not running:
                    return
                ended, running = wait(running, timeout=TICK_S, return_when=FIRST_COMPLETED)
                progress.refresh()
                for future in ended:
                    yield future.result()
        except BrokenProcessPool as error:
            # A signal to the whole group ends them too.
            check(stop)
            raise ShardFailed(f"a process died ({error}); what was finished is kept") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Begin a process: Ctrl-C, and a terminal that is closed, are for the parent, which decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    without_pandas()
