"""A Spark job, in a thread that waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from turbo_fetch.errors import MissingExtra

try:
    from pyspark import InheritableThread, SparkContext
except ModuleNotFoundError as error:
    raise MissingExtra("pyspark", "spark", 'engine.kind = "spark"') from error

CANCEL_EVERY_S: Final = 0.5

Result = TypeVar("Result")


class Job(Generic[Result]):
    """A job under a group of its own, which `action` submits and waits for."""

    def __init__(self, context: SparkContext, group: str, name: str, action: Callable[[], Result]) -> None:
        self.result: Result | None = None
        self.error: Exception | None = None
        """Why there is no result."""
        self._context = context
        self._group = group
        self._thread = InheritableThread(target=self._run, args=(name, action), name="spark job")
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
            self.wait(CANCEL_EVERY_S)

    def _run(self, name: str, action: Callable[[], Result]) -> None:
        self._context.setJobGroup(self._group, f"turbo-fetch: {name}", interruptOnCancel=True)
        try:
            self.result = action()
        # Spark and py4j raise what has no common base.
        except Exception as error:
            self.error = error
