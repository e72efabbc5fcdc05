"""Progress of work on a dataset: a bar on a terminal, plain lines every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from turbo_fetch.stop import StopRequest, stop_on_signals

PLAIN_EVERY_S: Final = 10.0


@contextmanager
def row_progress(verb: str, total: int | None, quiet: bool) -> Iterator[tuple[RowProgress, StopRequest]]:
    """Show the progress of a command on standard error, and answer signals there; yields both."""
    with RowProgress(sys.stderr, verb, total, quiet) as progress, stop_on_signals(progress.note) as stop:
        yield progress, stop


class RowProgress:
    """Counts rows of `total` while the context lasts; writes nothing when `quiet`."""

    def __init__(self, file: TextIO, verb: str, total: int | None, quiet: bool = False) -> None:
        self._console = Console(file=file, highlight=False)
        self._verb = verb
        self._total = total
        self._done = 0
        self._quiet = quiet
        self._shown_s = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("rows"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(self._verb, total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, rows: int) -> None:
        """Count rows that are done."""
        self._done += rows
        if self._bar is not None:
            self._bar.advance(self._task, rows)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            self._console.print(text, markup=False)

    def refresh(self) -> None:
        """Print a plain line if the last one is long enough ago."""
        now = time.monotonic()
        if self._bar is None and not self._quiet and now - self._shown_s >= PLAIN_EVERY_S:
            self._shown_s = now
            of = "" if self._total is None else f" of {self._total:,}"
            self._console.print(f"{self._verb} {self._done:,}{of} rows")
