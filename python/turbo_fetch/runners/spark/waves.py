"""Jobs of Spark whose tasks are workers, one after the other, so that none lives for the whole run.

Spark counts how often a task fails as long as its job lasts, gives cores to tasks that wait, and asks for more
executors while some do. So tasks end now and then, and the next job waits in the queue behind them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from time import monotonic
from typing import Final

from pyspark import InheritableThread, SparkContext

from turbo_fetch import __version__
from turbo_fetch.errors import ClusterError, ShardFailed, TurboFetchError
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.spark.door import Door
from turbo_fetch.runners.spark.worker import WorkerTask

_CANCEL_EVERY_S: Final = 0.5
_ENDING_S: Final = 3.0
_LOOK_EVERY_S: Final = 0.1
_LACKS: Final = ("ModuleNotFoundError", "importlib.metadata.PackageNotFoundError")
_LOST: Final = re.compile(
    r"Task \d+ in stage [\d.]+ failed (\d+) times.*ExecutorLostFailure.*?Reason: ([^.\n]+)", re.S
)
_OURS: Final = "turbo_fetch.errors.ClusterError: "


class Wave:
    """A job, in a thread that waits for it."""

    def __init__(
        self, context: SparkContext, group: str, task: WorkerTask, size: int, rows_before: int
    ) -> None:
        self.waiting = set(range(size))
        """Tasks that no executor works on yet, or again."""
        self.rows_before = rows_before
        """Rows of the run that were done when the job was submitted."""
        self.error: Exception | None = None
        self._context = context
        self._group = group
        self._thread = InheritableThread(target=self._run, args=(task, size), name="spark job")
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait for the end of the job for so long at most."""
        self._thread.join(seconds)

    def cancel(self) -> None:
        """End the job, and wait for that."""
        while not self.is_over:
            # One that was submitted a moment ago may not be known yet.
            self._context.cancelJobGroup(self._group)
            self.wait(_CANCEL_EVERY_S)

    def _run(self, task: WorkerTask, size: int) -> None:
        self._context.setJobGroup(self._group, f"turbo-fetch: {size} workers", interruptOnCancel=True)
        try:
            self._context.parallelize(range(size), size).foreachPartition(task)
        # Spark and py4j raise what has no common base; it is told if nothing was done meanwhile.
        except Exception as error:
            self.error = error


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
        group = f"{self._group}-{self._number}"
        self.running[self._number] = Wave(self._context, group, task, size, rows_before)
        self._number += 1

    def failure(self, rows_done: int) -> TurboFetchError | None:
        """Forget jobs that are over; return what to tell of one that failed and in whose time no row was done."""
        failure = None
        for number, wave in list(self.running.items()):
            if wave.is_over:
                del self.running[number]
                if wave.error is not None and wave.rows_before == rows_done:
                    failure = told(wave.error)
        return failure

    def end(self, dismiss: Callable[[], None]) -> None:
        """Let tasks end, `dismiss` those that call, and cancel what is left after a while."""
        ends_s = monotonic() + _ENDING_S
        for wave in self.running.values():
            # Spark would kill the Python process of a task that is cancelled.
            while not wave.is_over and monotonic() < ends_s:
                dismiss()
                wave.wait(_LOOK_EVERY_S)
        for wave in self.running.values():
            wave.cancel()


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
