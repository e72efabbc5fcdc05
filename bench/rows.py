"""The rows of the speed table by name; each is a function that measures and returns its results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from bench.bench import Bench
from bench.comparisons import COMPARISONS, Comparison, compare
from bench.latency import measure_latency
from bench.limit_share import measure_limit_share
from bench.long_list import measure_first_request, measure_memory
from bench.results import Result
from bench.steady_cost import measure_steady_cost

Row = Callable[[Bench], list[Result]]


def _comparison(comparison: Comparison, bench: Bench) -> list[Result]:
    return [compare(comparison, bench)]


ROWS: Final[dict[str, Row]] = {
    **{name: partial(_comparison, comparison) for name, comparison in COMPARISONS.items()},
    "limit-share": measure_limit_share,
    "memory": measure_memory,
    "first-request": measure_first_request,
    "latency": measure_latency,
    "steady-cost": measure_steady_cost,
}
