"""Numbers of the spec, with bounds within which all that computes with them can, in every process and language."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from turbo_fetch.spec.bounds import LARGEST_SEED, MOST_WORKERS

_LARGEST_COUNT: Final = 10**15
"""Far from the end of a 64-bit integer, also when counts of bytes or pixels are multiplied."""
_YEAR_S: Final = 366 * 24 * 3600

Count = Annotated[int, Field(gt=0, le=_LARGEST_COUNT)]
"""How many of something that is only counted."""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""What random numbers begin with."""
Side = Annotated[int, Field(ge=1, le=8192)]
"""Pixels of an image that a model makes or learns from."""
DenoisingSteps = Annotated[int, Field(ge=1, le=1000)]
"""Schedulers have no more."""
Concurrency = Annotated[int, Field(gt=0, le=100_000)]
"""How many things may be under way at once."""
Threads = Annotated[int, Field(gt=0, le=1024)]
"""How many threads or processes one process or machine has."""
Workers = Annotated[int, Field(gt=0, le=MOST_WORKERS)]
"""How many processes a run has, on however many machines."""
Megabytes = Annotated[float, Field(gt=0, le=1_000_000)]
"""10^6 bytes each, up to a terabyte."""
WholeMegabytes = Annotated[int, Field(gt=0, le=1_000_000)]
"""10^6 bytes each, up to a terabyte."""
Megabits = Annotated[float, Field(gt=0, le=1_000_000_000)]
"""10^6 bits each."""
Seconds = Annotated[float, Field(gt=0, le=_YEAR_S)]
"""A time of a year at most."""
