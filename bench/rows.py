"""The rows of the speed table by name; each is a function that measures and returns its results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from bench.comparisons import COMPARISONS, Bench, Comparison, compare
from bench.results import Result

Row = Callable[[Bench], list[Result]]


def _comparison(comparison: Comparison, bench: Bench) -> list[Result]:
    return [compare(comparison, bench)]


ROWS: Final[dict[str, Row]] = {
    **{name: partial(_comparison, comparison) for name, comparison in COMPARISONS.items()},
}
