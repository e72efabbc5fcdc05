"""Names of shards and samples: img2dataset's scheme, so that keys agree between the two tools."""

from __future__ import annotations

SHARD_DIGITS = 5
"""Digits of shard numbers unless `fetch.output.shard_digits` says otherwise."""


def shard_name(shard: int, digits: int = SHARD_DIGITS) -> str:
    """Return the name of a shard's files without suffix, zero-padded to `digits`: `00042`."""
    return f"{shard:0{digits}d}"


def index_digits(samples_per_shard: int) -> int:
    """Return how many digits the index within a shard takes: ceil(log10(samples_per_shard))."""
    return len(str(samples_per_shard - 1)) if samples_per_shard > 1 else 0


def sample_key(shard: int, row: int, samples_per_shard: int, digits: int = SHARD_DIGITS) -> str:
    """Return the key of a row: shard number then index, zero-padded, never with a dot."""
    indices = index_digits(samples_per_shard)
    return f"{shard * 10**indices + row:0{indices + digits}d}"
