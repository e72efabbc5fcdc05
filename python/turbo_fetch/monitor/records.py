"""The metrics of an output: one JSON object per line, appended by every run into the same output.

`kind` says what a line is. `start`: a run or stage began. `progress`: how things stand, as
:func:`~turbo_fetch.progress.run_progress.figures` has it, and `machine`. `step`: the figures of a stage that goes in
steps. `picture`: where an image is that a stage made. `note`: something that a person should know. `end`: how the run
ended (`how`). All have `time`, in seconds since the epoch, and `stage`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

Line = dict[str, Any]


def dump(line: Line) -> bytes:
    """Return a line as bytes, its end included."""
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def parse(content: bytes) -> Iterator[Line]:
    """Yield the whole lines of a file; a torn or garbled one is none."""
    for text in content.split(b"\n"):
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if isinstance(line, dict) and "kind" in line:
            yield line


def mend(path: Path) -> None:
    """End a line that a killed process left torn, so that the next one begins on its own."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")


def is_due(elapsed_s: float, last_s: float, interval_s: float) -> bool:
    """Return whether a run should be recorded: every half second at first, ever more rarely up to `interval_s`.

    A run of seconds has a curve that way, and one of weeks no file of gigabytes.
    """
    return elapsed_s - last_s >= max(0.5, min(interval_s, elapsed_s * 0.05))
