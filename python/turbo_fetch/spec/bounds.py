"""Bounds of numbers that are both options and keys of the spec; light, for the command line shows them."""

from __future__ import annotations

from typing import Final

MOST_WORKERS: Final = 100_000
MOST_ROWS_PER_SHARD: Final = 1_000_000_000
LARGEST_SEED: Final = (1 << 63) - 1
"""Seeds of images count up from one, and PyTorch takes them below 2⁶⁴."""
