"""Steps as tasks of Spark jobs, a few of each core at a time: the next job fills the cores that the last steps of one
leave free, and no job is so long that losses of executors add up in it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from turbo_fetch import __version__
from turbo_fetch.errors import ShardFailed
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.spark.job import Job
from turbo_fetch.runners.spark.session import session
from turbo_fetch.runners.step import TICK_S, Onlooker, RemoteWork, check
from turbo_fetch.spec import EngineSpec
from turbo_fetch.stop import StopRequest

if TYPE_CHECKING:
    from pyspark import SparkContext

JOBS_AT_ONCE: Final = 2


def run_on_spark(
    work: RemoteWork, steps: Iterator[Any], engine: EngineSpec, progress: Onlooker, stop: StopRequest
) -> Iterator[Any]:
    """Yield what `work` returns of each step; see `run_steps`."""
    with session(engine.address) as context:
        workers = context.defaultParallelism * JOBS_AT_ONCE if engine.workers == "auto" else engine.workers
        size = max(1, workers // JOBS_AT_ONCE)
        running: list[Job[list[Any]]] = []
        try:
            while True:
                check(stop)
                while len(running) < JOBS_AT_ONCE and (part := list(islice(steps, size))):
                    running.append(_submit(context, work, part))
                if not running:
                    return
                running[0].wait(TICK_S)
                progress.refresh()
                over = [job for job in running if job.is_over]
                running = [job for job in running if job not in over]
                for job in over:
                    yield from _results(job)
        finally:
            for job in running:
                job.cancel()


def _submit(context: SparkContext, work: RemoteWork, steps: list[Any]) -> Job[list[Any]]:
    group = f"turbo-fetch-{secrets.token_hex(4)}"
    return Job(
        context,
        group,
        f"{len(steps)} steps",
        lambda: context.parallelize(steps, len(steps)).map(work).collect(),
    )


def _results(job: Job[list[Any]]) -> list[Any]:
    if job.error is not None:
        raise ShardFailed(
            f"a Spark job failed: {cause_in(str(job.error))}; expected turbo-fetch {__version__} and all that it "
            "needs on every executor. What was finished is kept"
        ) from job.error
    return job.result or []
