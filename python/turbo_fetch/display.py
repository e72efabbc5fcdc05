"""Progress of a run: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Final, Self, TextIO

import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from turbo_fetch.progress import Progress
from turbo_fetch.summary import human_bytes, human_time
from turbo_fetch.tally import Tally

REFRESH_S: Final = 0.5
PLAIN_EVERY_S: Final = 10.0
FAILURES_SHOWN: Final = 6


class Display:
    """Shows a Progress while the context lasts; writes nothing when `quiet`."""

    def __init__(self, file: TextIO, quiet: bool = False) -> None:
        self.progress = Progress()
        self._console = Console(file=file, highlight=False)
        self._quiet = quiet
        self._live: Live | None = None
        self._started_s = time.monotonic()
        self._shown_s = self._started_s
        self._process = psutil.Process()

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def total(self, rows: int | None, is_estimate: bool) -> None:
        """Take the number of rows of the list, as far as it is known."""
        self.progress.total_rows = rows
        self.progress.total_is_estimate = is_estimate

    def add(self, worker: int, tally: Tally) -> None:
        """Count the progress of a worker."""
        self.progress.add(worker, tally, time.monotonic())

    def shard_done(self, rows: int, resumed: bool) -> None:
        """Count a committed shard; the rows of one of this run were counted as they ended."""
        self.progress.shards_done += 1
        if resumed:
            self.progress.done_rows += rows

    def note(self, text: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            self._console.print(Text(text))

    def refresh(self) -> None:
        """Show the present state if the last showing is long enough ago."""
        now = time.monotonic()
        if self._quiet or now - self._shown_s < (REFRESH_S if self._live else PLAIN_EVERY_S):
            return
        self._shown_s = now
        if self._live is not None:
            self._live.update(self._panel(), refresh=True)
        else:
            self._console.print(Text(self._line()), soft_wrap=True)

    def _memory_bytes(self) -> int:
        return self._process.memory_info().rss + self.progress.sum("memory_bytes")

    def _position(self) -> str:
        progress = self.progress
        if progress.total_rows is None:
            return f"{progress.done_rows:,} rows"
        about = "about " if progress.total_is_estimate else ""
        share = min(1.0, progress.done_rows / max(progress.total_rows, 1))
        return f"{progress.done_rows:,} of {about}{progress.total_rows:,} rows ({share:.1%})"

    def _failures(self) -> str:
        failed = [
            (label, count) for label, count in self.progress.outcomes.most_common() if label != "success"
        ]
        return ", ".join(f"{label} {count:,}" for label, count in failed[:FAILURES_SHOWN]) or "none"

    def _line(self) -> str:
        progress = self.progress
        rows_per_s, bytes_per_s = progress.rates()
        eta = progress.eta_s()
        success = progress.outcomes["success"] / max(progress.run_rows, 1)
        return (
            f"{human_time(time.monotonic() - self._started_s)}: {self._position()}, {rows_per_s:,.0f} rows/s, "
            f"{human_bytes(bytes_per_s)}/s, success {success:.1%}, failures: {self._failures()}, "
            f"in flight {progress.sum('in_flight'):,}, memory {human_bytes(self._memory_bytes())}, "
            f"ETA {human_time(eta) if eta is not None else 'unknown'}"
        )

    def _panel(self) -> RenderableType:
        progress = self.progress
        rows_per_s, bytes_per_s = progress.rates()
        eta = progress.eta_s()
        total = progress.total_rows
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column()
        table.add_row("rows", self._position())
        table.add_row("rate", f"{rows_per_s:,.0f} rows/s, {human_bytes(bytes_per_s)}/s")
        success = progress.outcomes["success"] / max(progress.run_rows, 1)
        table.add_row(
            "success", f"{success:.1%} of {progress.run_rows:,} in this run, {progress.retries:,} retries"
        )
        table.add_row("failures", self._failures())
        table.add_row(
            "now",
            f"{progress.sum('in_flight'):,} requests in flight, {progress.sum('waiting'):,} waiting, "
            f"{progress.sum('open_shards')} shards open, {progress.shards_done:,} done, "
            f"{len(progress.workers)} workers, {human_bytes(self._memory_bytes())}",
        )
        elapsed = human_time(time.monotonic() - self._started_s)
        table.add_row("time", f"{elapsed}, ETA {human_time(eta) if eta is not None else 'unknown'}")
        bar = ProgressBar(total=total, completed=min(progress.done_rows, total or 0), pulse=total is None)
        return Group(bar, table)
