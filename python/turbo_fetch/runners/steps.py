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
from typing import Any, Final, Protocol, TypeVar

from turbo_fetch import __version__, errors
from turbo_fetch.errors import Interrupted, ShardFailed, TurboFetchError
from turbo_fetch.runners.cpu_allocation import available_cores
from turbo_fetch.runners.messages import JobError
from turbo_fetch.spec import EngineSpec
from turbo_fetch.startup import without_pandas
from turbo_fetch.stop import StopRequest

TICK_S: Final = 0.25
AHEAD: Final = 2
"""Steps handed to each process in advance."""
STEPS_PER_PROCESS: Final = 16
"""With fewer steps a further process takes longer to start than they do."""

Step = TypeVar("Step")
Result = TypeVar("Result")


class Onlooker(Protocol):
    """Who looks on."""

    def refresh(self) -> None:
        """Take the chance to redraw, a few times a second."""

    def note(self, text: str) -> None:
        """Take a line that a person should see."""


class Progress(Onlooker, Protocol):
    """Who looks on at a command that is all steps."""

    def advance(self, rows: int) -> None:
        """Take note that this many rows are done."""


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


@dataclass(frozen=True, slots=True)
class RemoteWork:
    """Work as a machine of a cluster does it. It can be pickled."""

    work: Callable[[Any], Any]
    version: str = __version__

    def __call__(self, step: Any) -> Any:
        """Return what the work on a step returns, or a JobError."""
        if self.version != __version__:
            return JobError(
                "ClusterError",
                f"a machine of the cluster has turbo-fetch {__version__}, this one has {self.version}; expected the "
                "same everywhere",
            )
        try:
            return self.work(step)
        except TurboFetchError as error:
            return JobError(type(error).__name__, str(error))


def check(stop: StopRequest) -> None:
    """Raise Interrupted if asked to stop."""
    if stop:
        raise Interrupted("interrupted; what was finished is kept. Run the same command again to resume")


def _taken(result: Any) -> Any:
    if isinstance(result, JobError):
        raise getattr(errors, result.kind)(result.message)
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
