"""What a training stage says of itself when it is complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from turbo_fetch.dreambooth.history import Entry

HISTORY: Final = "history.jsonl"


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What came of a training stage."""

    path: str
    steps: int
    last: Entry | None
    was_complete: bool

    def text(self) -> str:
        """See stages.Report."""
        if self.was_complete or self.last is None:
            return f"train     {self.path}, which was complete already"
        return f"train     {self.path}: {progress_line(self.last, self.steps)}"


def progress_line(entry: Entry, steps: int) -> str:
    """Return where a run is and both of its losses."""
    prior = f", class {entry['prior_loss']:.4f}" if "prior_loss" in entry else ""
    return f"step {entry['step']:,} of {steps:,}, loss {entry['loss']:.4f} (subject {entry['subject_loss']:.4f}{prior})"
