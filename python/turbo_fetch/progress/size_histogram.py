"""How large images are and how wide: counts in classes, small enough for a commit record.

A side is the square root of an image's area, in pixels; its class is the whole part of twice its binary
logarithm. An aspect is width through height; its class is four times its binary logarithm, rounded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(slots=True)
class SizeHistogram:
    """Pictures counted by side and by aspect."""

    sides: Counter[int] = field(default_factory=Counter)
    aspects: Counter[int] = field(default_factory=Counter)

    def add(self, widths: npt.NDArray[np.int64], heights: npt.NDArray[np.int64]) -> None:
        """Count images of these sizes in pixels."""
        self.sides.update(np.floor(np.log2(widths * heights)).astype(int).tolist())
        self.aspects.update(np.rint(4 * np.log2(widths / heights)).astype(int).tolist())

    def add_record(self, record: Mapping[str, Mapping[str, int]]) -> None:
        """Add what `as_record` returned."""
        self.sides.update({int(key): count for key, count in record["sides"].items()})
        self.aspects.update({int(key): count for key, count in record["aspects"].items()})

    def as_record(self) -> dict[str, dict[str, int]]:
        """Return the counts by class, in order, for JSON."""
        return {
            "sides": {str(key): self.sides[key] for key in sorted(self.sides)},
            "aspects": {str(key): self.aspects[key] for key in sorted(self.aspects)},
        }


def side_edges(number: int) -> tuple[int, int]:
    """Return the sides in pixels from which and up to which class `number` reaches."""
    return round(2.0 ** (number / 2)), round(2.0 ** ((number + 1) / 2))


def aspect_centre(number: int) -> float:
    """Return the width through height in the middle of class `number`."""
    return float(2.0 ** (number / 4))
