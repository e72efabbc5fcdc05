"""Jobs of Spark whose tasks are workers, one after the other, so that none lives for the whole run.

Spark counts how often a task fails as long as its job lasts, gives cores to tasks that wait, and asks for more
executors while some do. So tasks end now and then, and the next job waits in the queue behind them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from pyspark import SparkContext

from turbo_fetch import __version__
from turbo_fetch.errors import ClusterError, ShardFailed, TurboFetchError
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.spark.door import Door
from turbo_fetch.runners.spark.job import Job

_ENDING_S: Final = 3.0
_LOOK_EVERY_S: Final = 0.1
_LACKS: Final = ("ModuleNotFoundError", "importlib.metadata.PackageNotFoundError")
_LOST: Final = re.compile(
    r"Task \d+ in stage [\d.]+ failed (\d+) times.*ExecutorLostFailure.*?Reason: ([^.\n]+)", re.S
)
_OURS: Final = "turbo_fetch.errors.ClusterError: "


@dataclass(slots=True)
class Wave:
    """A job, and which of its tasks wait."""

    job: Job[None]
    waiting: set[int]
    """Tasks that no executor works on yet, or again."""
    rows_before: int
    """Rows of the run that were done when the job was submitted."""


class Waves:
    """The jobs of a run, by number; what is over leaves them."""

    def __init__(self, context: SparkContext, door: Door) -> None:
        self.running: dict[int, Wave] = {}
        self._context = context
        self._door = door
        self._group = f"turbo-fetch-{secrets.token_hex(4)}"
        self._number = 0

    @property
    def waiting(self) -> int:
        """How many tasks no executor works on yet, or again."""
        return sum(len(wave.waiting) for wave in self.running.values())

    def submit(self, size: int, rows_before: int) -> None:
        """Start a job of so many tasks."""
        task = self._door.task_of(self._number)

        def run() -> None:
            self._context.parallelize(range(size), size).foreachPartition(task)

        job = Job(self._context, f"{self._group}-{self._number}", f"{size} workers", run)
        self.running[self._number] = Wave(job, set(range(size)), rows_before)
        self._number += 1

    def failure(self, rows_done: int) -> TurboFetchError | None:
        """Forget jobs that are over; return what to tell of one that failed and in whose time no row was done."""
        failure = None
        for number, wave in list(self.running.items()):
            if wave.job.is_over:
                del self.running[number]
                if wave.job.error is not None and wave.rows_before == rows_done:
                    failure = told(wave.job.error)
        return failure

    def end(self, dismiss: Callable[[], None]) -> None:
        """Let tasks end, `dismiss` those that call, and cancel what is left after a while."""
        ends_s = monotonic() + _ENDING_S
        for wave in self.running.values():
            # Spark would kill the Python process of a task that is cancelled.
            while not wave.job.is_over and monotonic() < ends_s:
                dismiss()
                wave.job.wait(_LOOK_EVERY_S)
        for wave in self.running.values():
            wave.job.cancel()


def told(error: Exception) -> TurboFetchError:
    """Return what to tell of a job that failed without a row being done."""
    reason = cause_in(str(error))
    lost = _LOST.search(str(error))
    if reason.startswith(_OURS):
        return ClusterError(reason.removeprefix(_OURS))
    if reason.startswith(_LACKS):
        return ClusterError(
            f"an executor lacks a package: {reason}; expected turbo-fetch {__version__} and all that it needs on "
            "every executor: set PYSPARK_PYTHON to a Python that has them, or ship one with spark.archives"
        )
    if lost is not None:
        return ShardFailed(
            f"Spark lost the executor of a worker {lost[1]} times while no row was done ({lost[2].strip()}); expected "
            "executors that live, with memory for Python beside their own (spark.executor.memoryOverhead); what "
            "arrived is saved"
        )
    return ShardFailed(f"a Spark job ended before a row was done: {reason}; what arrived is saved")
