"""Progress of a run: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Final, Self, TextIO

import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.outage import OUTAGES
from turbo_fetch.progress.run_progress import Progress
from turbo_fetch.progress.summary import human_bytes, human_time
from turbo_fetch.progress.tally import Tally
from turbo_fetch.redaction import redact

REFRESH_S: Final = 0.25
PLAIN_EVERY_S: Final = 10.0
FAILURES_SHOWN: Final = 6
WIDEST: Final = 100
"""Columns that the panel takes at most; on a wider terminal, lines would be hard to follow."""


@dataclass(slots=True)
class Steps:
    """How far a stage is that goes in steps."""

    stage: str
    started_s: float
    done: int = 0
    total: int = 0
    unit: str = "steps"
    first: tuple[float, int] | None = None
    """When the first count of what is being counted came, and what it was: a resumed stage does not begin at 0."""
    values: Mapping[str, float] = field(default_factory=dict)

    def rate(self, now_s: float) -> float:
        """Return steps per second since the first one was counted."""
        if self.first is None or now_s <= self.first[0]:
            return 0.0
        return (self.done - self.first[1]) / (now_s - self.first[0])

    def eta_s(self, now_s: float) -> float | None:
        """Return the seconds left at that rate, if they can be known."""
        rate = self.rate(now_s)
        return (self.total - self.done) / rate if rate > 0 else None


class Display(ProgressListener):
    """Shows how a run goes while the context lasts; writes nothing when `quiet`."""

    def __init__(self, file: TextIO, quiet: bool = False) -> None:
        self.progress = Progress()
        self._steps: Steps | None = None
        self._console = Console(file=file, highlight=False)
        self._quiet = quiet
        self._live: Live | None = None
        self._started_s = time.monotonic()
        self._shown_s = self._started_s

    def __enter__(self) -> Self:
        if _can_redraw(self._console) and not self._quiet:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def stage(self, name: str) -> None:
        """See ProgressListener."""
        self._steps = None if name == "fetch" else Steps(name, time.monotonic())
        if self._live is not None:
            self._live.update(self._waiting(name), refresh=True)

    def total(self, rows: int | None, is_estimate: bool) -> None:
        """See ProgressListener."""
        self.progress.total_rows = rows
        self.progress.total_is_estimate = is_estimate

    def add(self, worker: int, tally: Tally) -> None:
        """See ProgressListener."""
        self.progress.add(worker, tally, time.monotonic())

    def worker_gone(self, worker: int, open_rows: int) -> None:
        """See ProgressListener."""
        self.progress.worker_gone(worker, open_rows)

    def shard_done(self, rows: int, resumed: bool) -> None:
        """See ProgressListener."""
        self.progress.shard_done(rows, resumed)

    def step(self, done: int, total: int, unit: str, values: Mapping[str, float]) -> None:
        """See ProgressListener."""
        now = time.monotonic()
        steps = self._steps or Steps("work", now)
        if steps.first is None or (steps.total, steps.unit) != (total, unit) or done < steps.done:
            # What a stage does next has a speed of its own.
            steps.first = (now, done)
        steps.done, steps.total, steps.unit, steps.values = done, total, unit, dict(values)
        self._steps = steps
        self.refresh()

    def phase(self, done: int, total: int, unit: str) -> None:
        """See ProgressListener."""
        self.step(done, total, unit, {})

    def note(self, text: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            self._console.print(Text(redact(text)))

    def refresh(self) -> None:
        """Show the present state if the last showing is long enough ago."""
        now = time.monotonic()
        if self._quiet or now - self._shown_s < (REFRESH_S if self._live else PLAIN_EVERY_S):
            return
        self._shown_s = now
        if self._live is not None:
            self._live.update(self._panel(now), refresh=True)
        else:
            self._console.print(Text(self._line(now)), soft_wrap=True)

    def _waiting(self, stage: str) -> RenderableType:
        return Text(f"{stage}: starting …", style="dim")

    def _panel(self, now_s: float) -> RenderableType:
        width = min(self._console.width, WIDEST)
        if self._steps is not None:
            return _step_panel(self._steps, now_s, width)
        return _fetch_panel(self.progress, now_s - self._started_s, self._memory_bytes(), width)

    def _line(self, now_s: float) -> str:
        if self._steps is not None:
            words = _step_words(self._steps, now_s) if self._steps.total else ["starting …"]
            return f"{self._steps.stage}: {', '.join(words)}"
        progress = self.progress
        rows_per_s, bytes_per_s = progress.rates()
        return (
            f"{human_time(now_s - self._started_s)}: {_position(progress)}, {rows_per_s:,.0f} rows/s, "
            f"{human_bytes(bytes_per_s)}/s, "
            f"success {f'{progress.success_share:.1%}' if progress.run_rows else 'none yet'}, "
            f"failures: {', '.join(_failures(progress)) or 'none'}, "
            f"in flight {progress.sum('in_flight'):,}, "
            + (f"to score {to_score:,}, " if (to_score := progress.sum("to_score")) else "")
            + f"memory {human_bytes(self._memory_bytes())}, "
            + (f"{outage}, " if (outage := _outage(progress)) else "")
            + f"ETA {_eta(progress.eta_s())}"
        )

    def _memory_bytes(self) -> int:
        return int(psutil.Process().memory_info().rss) + self.progress.sum("memory_bytes")


def _can_redraw(console: Console) -> bool:
    """Return whether what was shown can be replaced: on a terminal, and in a notebook by a widget."""
    on_terminal = console.is_terminal and not console.is_dumb_terminal
    return on_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


def _fetch_panel(progress: Progress, elapsed_s: float, memory_bytes: int, width: int) -> RenderableType:
    """Return the panel of the stage `fetch`, for a terminal `width` columns wide."""
    rows_per_s, bytes_per_s = progress.rates()
    failures = Text(", ").join(Text(failure, style="yellow") for failure in _failures(progress))
    success = Text(
        f"{progress.success_share:.1%}", style="green" if progress.success_share >= 0.9 else "yellow"
    )
    success.append(f" of {progress.run_rows:,} in this run", style="default")
    if progress.retries:
        success.append(f", {progress.retries:,} retries", style="default")
    outage = _outage(progress)
    lines = {
        **({"outage": Text(outage, style="yellow")} if outage else {}),
        "speed": Text(f"{rows_per_s:,.0f} rows/s · {human_bytes(bytes_per_s)}/s"),
        "success": success if progress.run_rows else Text("none yet"),
        "failures": failures if failures else Text("none"),
        "now": _joined(_present(progress)),
        "memory": Text(
            f"{human_bytes(memory_bytes)} in {_counted(progress.present_workers + 1, 'process', 'es')}"
        ),
    }
    times = f"{human_time(elapsed_s)} elapsed · {_eta(progress.eta_s())} left"
    head = _head("fetch", _position(progress), times, width)
    share = None if progress.total_rows is None else progress.done_rows / max(progress.total_rows, 1)
    return Group(head, _bar(share, width), _table(lines))


def _step_panel(steps: Steps, now_s: float, width: int) -> RenderableType:
    """Return the panel of a stage that goes in steps."""
    if not steps.total:
        return _head(steps.stage, "starting …", f"{human_time(now_s - steps.started_s)} elapsed", width)
    position, speed, *values = _step_words(steps, now_s)
    times = f"{human_time(now_s - steps.started_s)} elapsed · {_eta(steps.eta_s(now_s))} left"
    lines = {"speed": Text(speed), "figures": _joined(values) if values else Text("none yet")}
    return Group(
        _head(steps.stage, position, times, width), _bar(steps.done / steps.total, width), _table(lines)
    )


def _head(stage: str, position: str, times: str, width: int) -> RenderableType:
    """Return the first line: stage and position left, times right, on two lines where one is too short."""
    left = Text.assemble((stage, "bold"), f"  {position}")
    if left.cell_len + len(times) + 2 > width:
        return Group(left, Text(times, style="dim"))
    return Text.assemble(left, " " * (width - left.cell_len - len(times)), (times, "dim"))


def _bar(share: float | None, width: int) -> RenderableType:
    done = 0.0 if share is None else min(share, 1.0)
    # A bar alone does not end its line, and what follows would be lost beyond the edge.
    line = Table.grid()
    line.add_row(ProgressBar(total=1.0, completed=done, width=width, pulse=share is None))
    return line


def _table(lines: Mapping[str, Text]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines.items():
        table.add_row(name, text)
    return table


def _joined(parts: list[str]) -> Text:
    return Text(" · ").join(Text(part) for part in parts)


def _present(progress: Progress) -> list[str]:
    parts = [f"{progress.sum('in_flight'):,} in flight"]
    if progress.sum("waiting"):
        parts.append(f"{progress.sum('waiting'):,} waiting")
    if progress.sum("to_score"):
        parts.append(f"{progress.sum('to_score'):,} to score")
    parts.append(f"{_counted(progress.open_shards, 'shard', 's')} open")
    return [*parts, f"{progress.shards_done:,} done"]


def _outage(progress: Progress) -> str:
    """Say that nothing is asked for, and since when; nothing if that is not so."""
    outages = progress.outages()
    if not outages:
        return ""
    cause, seconds = outages[0]
    workers = "" if len(outages) == progress.present_workers else f" of {len(outages)} workers"
    return f"outage{workers} for {human_time(seconds)}: {OUTAGES[cause]}, {progress.sum('held'):,} rows held"


def _position(progress: Progress) -> str:
    if progress.total_rows is None:
        return f"{progress.done_rows:,} rows"
    about = "about " if progress.total_is_estimate else ""
    # The rows of the list, when they are estimated, may turn out to be more than was thought.
    share = min(1.0, progress.done_rows / max(progress.total_rows, 1))
    return f"{progress.done_rows:,} of {about}{progress.total_rows:,} rows ({share:.1%})"


def _failures(progress: Progress) -> Iterator[str]:
    """Yield the most frequent failures with their counts, and what the others come to."""
    failed = [(label, count) for label, count in progress.outcomes.most_common() if label != "success"]
    for label, count in failed[:FAILURES_SHOWN]:
        yield f"{label} {count:,}"
    if others := sum(count for _, count in failed[FAILURES_SHOWN:]):
        yield f"others {others:,}"


def _step_words(steps: Steps, now_s: float) -> list[str]:
    rate = steps.rate(now_s)
    # Training on a processor takes seconds per step, which reads better than a fraction of a step per second.
    slow = 0 < rate < 1
    speed = f"{1 / rate:.1f} s each" if slow else f"{rate:,.1f} {steps.unit}/s"
    position = f"{steps.done:,} of {steps.total:,} {steps.unit}"
    return [position, speed, *(f"{name} {value:.4g}" for name, value in steps.values.items())]


def _counted(count: int, noun: str, plural: str) -> str:
    return f"{count:,} {noun}{plural if count != 1 else ''}"


def _eta(seconds: float | None) -> str:
    return "unknown" if seconds is None else human_time(seconds)
