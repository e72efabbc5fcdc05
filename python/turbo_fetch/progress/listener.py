"""Who looks on while a job runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from turbo_fetch.progress.tally import Tally


class ProgressListener:
    """Who looks on while a job runs; called in the thread that runs it. This one looks away.

    Subclasses override what they want to know.
    """

    def stage(self, name: str) -> None:
        """Take note that a stage of the spec begins."""

    def total(self, rows: int | None, is_estimate: bool) -> None:
        """Take the number of rows of the list, as far as it is known."""

    def add(self, worker: int, tally: Tally) -> None:
        """Take the progress of a worker."""

    def worker_gone(self, worker: int, open_rows: int) -> None:
        """Take note that a worker ended; so many rows that it added are in open shards, and will be added again."""

    def shard_done(self, rows: int, resumed: bool) -> None:
        """Take note of a committed shard, one of an earlier run if `resumed`."""

    def step(self, done: int, total: int, unit: str, values: Mapping[str, float]) -> None:
        """Take the progress of a stage that goes in steps.

        `unit` names the steps in the plural (`steps`, `pictures`); `values` are the stage's figures at this
        step by name, such as `loss`.
        """

    def phase(self, done: int, total: int, unit: str) -> None:
        """Take how far a stage is with what comes before its steps, such as `images encoded`."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Take an image that a stage wrote to a file of this machine, such as its samples after a step."""

    def note(self, text: str) -> None:
        """Take a line that a person should see; the answer to a signal comes from a thread of its own."""

    def refresh(self) -> None:
        """Take the chance to redraw, a few times a second."""
