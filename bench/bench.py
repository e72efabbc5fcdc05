"""How a benchmark is run: which programs, how often, and where caches, work and results are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Program = Literal["turbo-fetch", "img2dataset"]
PROGRAMS: Final[tuple[Program, ...]] = ("turbo-fetch", "img2dataset")


@dataclass(frozen=True)
class Bench:
    """The choices of the command line; `repeats` None means each row's own number."""

    cache: Path
    results: Path
    quick: bool = False
    repeats: int | None = None
    programs: tuple[Program, ...] = PROGRAMS
    command: str = ""

    @property
    def work(self) -> Path:
        """Folder for lists, specs, logs and outputs."""
        return self.cache / "bench"
