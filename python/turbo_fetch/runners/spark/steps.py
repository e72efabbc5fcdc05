"""Steps as tasks of Spark jobs, a few of each core at a time: the next job fills the cores that the last steps of one
leave free, and no job is so long that losses of executors add up in it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from turbo_fetch import __version__
from turbo_fetch.errors import MissingExtra, ShardFailed
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.spark.session import session
from turbo_fetch.runners.step import TICK_S, Onlooker, RemoteWork, check
from turbo_fetch.spec import EngineSpec
from turbo_fetch.stop import StopRequest

try:
    from pyspark import InheritableThread, SparkContext
except ModuleNotFoundError as error:
    raise MissingExtra("pyspark", "spark", 'engine.kind = "spark"') from error

JOBS_AT_ONCE: Final = 2
CANCEL_EVERY_S: Final = 0.5


def run_on_spark(
    work: RemoteWork, steps: Iterator[Any], engine: EngineSpec, progress: Onlooker, stop: StopRequest
) -> Iterator[Any]:
    """Yield what `work` returns of each step; see `run_steps`."""
    with session(engine.address) as context:
        group = f"turbo-fetch-{secrets.token_hex(4)}"
        workers = context.defaultParallelism * JOBS_AT_ONCE if engine.workers == "auto" else engine.workers
        size = max(1, workers // JOBS_AT_ONCE)
        running: list[_Job] = []
        try:
            while True:
                check(stop)
                while len(running) < JOBS_AT_ONCE and (part := list(islice(steps, size))):
                    running.append(_Job(context, group, work, part))
                if not running:
                    return
                running[0].wait(TICK_S)
                progress.refresh()
                over = [job for job in running if job.is_over]
                running = [job for job in running if job not in over]
                for job in over:
                    yield from job.results()
        finally:
            while any(not job.is_over for job in running):
                # A job that was submitted a moment ago may not be known yet.
                context.cancelJobGroup(group)
                for job in running:
                    job.wait(CANCEL_EVERY_S)


class _Job:
    """A Spark job of one task a step, in a thread that waits for it."""

    def __init__(self, context: SparkContext, group: str, work: RemoteWork, steps: list[Any]) -> None:
        self._context = context
        self._group = group
        self._results: list[Any] = []
        self._error: Exception | None = None
        self._thread = InheritableThread(target=self._run, args=(work, steps), name="spark job")
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait for the end of the job for so long at most."""
        self._thread.join(seconds)

    def results(self) -> list[Any]:
        """Return the results of a job that is over; raises ShardFailed if it failed."""
        if self._error is not None:
            raise ShardFailed(
                f"a Spark job failed: {cause_in(str(self._error))}; expected turbo-fetch {__version__} and all that it "
                "needs on every executor. What was finished is kept"
            ) from self._error
        return self._results

    def _run(self, work: RemoteWork, steps: list[Any]) -> None:
        self._context.setJobGroup(self._group, f"turbo-fetch: {len(steps)} steps", interruptOnCancel=True)
        try:
            self._results = self._context.parallelize(steps, len(steps)).map(work).collect()
        # Spark and py4j raise what has no common base.
        except Exception as error:
            self._error = error
