"""Result files: what was run, where, with which versions, every repeat, and the figures drawn from them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.job import Counted
from bench.machine import Machine
from bench.measure import Measurement

COMMITTED: Final = Path("bench/results")


@dataclass(frozen=True)
class Repeat:
    """One run of one program."""

    program: str
    measurement: Measurement
    counted: Counted

    def as_json(self) -> dict[str, Any]:
        """Return all figures of the run, flat."""
        return {"program": self.program, "cpu_s": self.measurement.cpu_s} | {
            **asdict(self.measurement),
            **asdict(self.counted),
        }


@dataclass(frozen=True)
class Result:
    """One row of the speed table. `value` is compared with `target`, by `relation` (`<=` or `>=`)."""

    row: str
    measure: str
    value: float
    unit: str
    relation: str
    target: float
    date: str
    command: str
    machine: Machine
    versions: dict[str, dict[str, str]]
    parameters: dict[str, Any]
    programs: dict[str, Any]
    figures: dict[str, Any]
    repeats: list[dict[str, Any]]

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.value <= self.target if self.relation == "<=" else self.value >= self.target

    def save(self, folder: Path) -> Path:
        """Write the result to `folder` under the name of its row."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.row}.json"
        path.write_text(json.dumps({**asdict(self), "met": self.met}, indent=1) + "\n")
        return path
