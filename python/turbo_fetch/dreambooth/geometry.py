"""Where a picture is cut and how large it becomes: pure arithmetic, apart from pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A window of a picture, in its own pixels, and the size that the window becomes."""

    left: float
    top: float
    width: float
    height: float
    target: Size

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels of the picture."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def conditioning(self, original: Size) -> tuple[float, ...]:
        """Return the six numbers that SDXL is told (arXiv 2307.01952, section 2.2), in pixels.

        Original height and width; top and left of the cut in the resized picture; height and width of the target.
        """
        scale = self.target[0] / self.width
        width, height = original
        return (
            height,
            width,
            round(self.top * scale),
            round(self.left * scale),
            self.target[1],
            self.target[0],
        )


def cut(original: Size, target: Size, across: float = 0.5, down: float = 0.5) -> Cut:
    """Return the largest window of the shape of `target`; `across` and `down` in 0..1 say where it lies."""
    width, height = original
    scale = min(width / target[0], height / target[1])
    window = (target[0] * scale, target[1] * scale)
    return Cut((width - window[0]) * across, (height - window[1]) * down, *window, target)


def mirrored(window: Cut, original: Size) -> Cut:
    """Return where the window lies in the mirror image."""
    return Cut(
        original[0] - window.left - window.width, window.top, window.width, window.height, window.target
    )


def buckets(resolution: int, multiple: int, max_aspect: float) -> tuple[Size, ...]:
    """Return the sizes of about `resolution` squared pixels, squarest first, with sides that are multiples.

    No size has more pixels than the square, so that none needs more memory.
    """
    area, sizes = resolution * resolution, set()
    for side in range(multiple, int(resolution * math.sqrt(max_aspect)) + 1, multiple):
        other = area // side // multiple * multiple
        if other and max(side, other) / min(side, other) <= max_aspect:
            sizes |= {(side, other), (other, side)}
    sizes.add((resolution, resolution))
    return tuple(sorted(sizes, key=lambda size: (abs(math.log(size[0] / size[1])), size)))


def nearest(original: Size, sizes: Sequence[Size]) -> Size:
    """Return the size whose shape is nearest to that of a picture; the larger one of equals."""
    shape = math.log(original[0] / original[1])
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - shape), -size[0] * size[1]))
