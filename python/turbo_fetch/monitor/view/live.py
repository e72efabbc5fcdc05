"""What a run that goes on says of itself: the end of its metrics."""

from __future__ import annotations

import time
from typing import Any, Final

from turbo_fetch.dataset import names
from turbo_fetch.monitor import records
from turbo_fetch.storage import Storage

TAIL_BYTES: Final = 256 << 10
SILENT_S: Final = 60.0
"""A run that says nothing for so long is over, however it ended."""


def state(storage: Storage) -> dict[str, Any]:
    """Return `running`, the lines of the latest run so far as `progress`, its last `step`, and `how` it ended."""
    path = (storage.path or storage.work) / names.METRICS
    content = b""
    if path.exists():
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            content = file.read()
    lines = list(records.parse(content))
    starts = [number for number, line in enumerate(lines) if line["kind"] == "start"]
    run = lines[starts[-1] :] if starts else lines
    ends = [line for line in run if line["kind"] == "end"]
    fresh = bool(run) and time.time() - run[-1]["time"] < SILENT_S
    return {
        "running": fresh and not ends,
        "how": ends[-1]["how"] if ends else None,
        "progress": [_short(line) for line in run if line["kind"] == "progress"],
        "step": next((line for line in reversed(run) if line["kind"] == "step"), None),
        "notes": [line["text"] for line in run if line["kind"] == "note"][-5:],
    }


def _short(line: records.Line) -> records.Line:
    left_out = {"seconds", "sizes", "workers", "machine"}
    memory = sum(worker["memory_bytes"] for worker in line["workers"])
    return {"memory_bytes": memory, **{key: value for key, value in line.items() if key not in left_out}}
