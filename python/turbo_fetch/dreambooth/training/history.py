"""The losses of every step, in memory until they are written as lines of JSON; and what a stage says of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from turbo_fetch.dreambooth.training.objectives import DualLoss
from turbo_fetch.errors import TrainingFailed
from turbo_fetch.storage.disk import replace_with
from turbo_fetch.storage.failures import explained

Entry = dict[str, Any]
"""`step` (from 1), `loss`, `subject_loss`, `prior_loss` if there is one, `learning_rate`."""

AFTER_OVERFLOW: Final = (
    'A lower learning rate or precision = "fp32" may help, in another train.output; '
    "the last checkpoint is from before"
)


class History:
    """Collects losses on their device, so that no step waits for a number; writes them when flushed."""

    def __init__(self, path: Path, step: int, writes: bool = True) -> None:
        """Resume after `step`; what the file has of later steps is dropped. Of several devices, one `writes`."""
        self.path = path
        self.step = step
        self.last: Entry | None = None
        self._passes: list[Tensor] = []
        self._steps: list[tuple[Tensor, float]] = []
        kept = [entry for entry in read_history(path) if entry["step"] <= step]
        self.last = kept[-1] if kept else None
        self.lost = step - len(kept)
        """Steps that are done and not in the file, which is of another or was damaged."""
        self._writes = writes
        if not writes:
            return
        with explained(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_with(path, "".join(f"{json.dumps(entry)}\n" for entry in kept).encode())

    def add(self, losses: DualLoss) -> None:
        """Take the losses of one forward pass."""
        prior = () if losses.prior is None else (losses.prior.detach(),)
        self._passes.append(torch.stack([losses.total.detach(), losses.subject.detach(), *prior]))

    def end_step(self, learning_rate: float, over_devices: Callable[[Tensor], Tensor]) -> None:
        """Take it that the passes since the last step made one; `over_devices` is the mean over all devices."""
        passes, self._passes = self._passes, []
        mean = passes[0] if len(passes) == 1 else torch.stack(passes).mean(0)
        self._steps.append((over_devices(mean), learning_rate))
        self.step += 1

    def flush(self) -> list[Entry]:
        """Write what has come since, and return it. Raises TrainingFailed if a loss is not a number, OutputError."""
        if not self._steps:
            return []
        values = torch.stack([mean for mean, _ in self._steps]).tolist()
        first = self.step - len(self._steps) + 1
        entries = []
        for offset, (losses, (_, rate)) in enumerate(zip(values, self._steps, strict=True)):
            names = ("loss", "subject_loss", "prior_loss")
            entry = {"step": first + offset, **dict(zip(names, losses, strict=False)), "learning_rate": rate}
            entries.append(entry)
        self._steps.clear()
        for entry in entries:
            if not math.isfinite(entry["loss"]):
                raise TrainingFailed(
                    f"the loss of step {entry['step']} is not a number ({entry['loss']}). {AFTER_OVERFLOW}"
                )
        self.last = entries[-1]
        if self._writes:
            with explained(str(self.path)), self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{json.dumps(entry)}\n" for entry in entries))
                file.flush()
                os.fsync(file.fileno())
        return entries


def read_history(path: Path) -> Iterator[Entry]:
    """Yield the entries of a file, up to a line that was cut off by a crash; nothing if there is none."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


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
        return f"train     {self.path}: {_progress(self.last, self.steps)}"


def _progress(entry: Entry, steps: int) -> str:
    """Return where a run is and both of its losses."""
    prior = f", class {entry['prior_loss']:.4f}" if "prior_loss" in entry else ""
    return f"step {entry['step']:,} of {steps:,}, loss {entry['loss']:.4f} (subject {entry['subject_loss']:.4f}{prior})"
