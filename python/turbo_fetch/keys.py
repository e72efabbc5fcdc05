"""Names of shards and samples: img2dataset's scheme, so that keys agree between the two tools."""

from __future__ import annotations

SHARD_DIGITS = 5


def shard_name(shard: int) -> str:
    """Return the name of a shard's files without suffix, at least five digits: `00042`."""
    return f"{shard:0{SHARD_DIGITS}d}"


def index_digits(samples_per_shard: int) -> int:
    """Return how many digits the index within a shard takes: ceil(log10(samples_per_shard))."""
    return len(str(samples_per_shard - 1)) if samples_per_shard > 1 else 0


def sample_key(shard: int, row: int, samples_per_shard: int) -> str:
    """Return the key of a row: shard number then index, zero-padded, never with a dot."""
    digits = index_digits(samples_per_shard)
    return f"{shard * 10**digits + row:0{digits + SHARD_DIGITS}d}"
