"""The keys of the rows of a shard, by which its samples are named: numbers, after a prefix, or from a column.

A key from a column is a file name of ASCII letters, digits, `_` and `-`, and no two rows of a shard have the same: not
even ones that differ in case alone, which are one file for some systems. A row whose value is empty, or taken by an
earlier row of its shard, has its number in the key, which no other row of the dataset has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from turbo_fetch.dataset.names import index_digits, shard_name
from turbo_fetch.errors import InputError
from turbo_fetch.plan.list_notes import KEY
from turbo_fetch.spec import OutputSpec

LONGEST: Final = 92
"""Characters of a key from a column, with its prefix and a number: the name of a member of a tar has 100."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


def check_key_column(columns: pa.Schema, output: OutputSpec) -> None:
    """Raise InputError if the column of keys of a list is neither of strings nor of integers."""
    if output.key_column is None:
        return
    kind = columns.field(output.key_column).type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(
            f"fetch.output.key_column: the list's column {output.key_column!r} is of type {kind}; expected strings or "
            "integers"
        )


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The keys of the rows of a shard."""

    shard: int
    output: OutputSpec
    named: pa.StringArray | None = None
    """Those of all rows, if they are from a column."""
    notes: Mapping[str, tuple[int, str]] | None = None
    """How many rows have a number though they should have a value, and the first of them, as ListNotes counts."""

    @classmethod
    def of(cls, source: pa.RecordBatch, shard: int, output: OutputSpec) -> ShardKeys:
        """Return the keys of a shard, of which `source` has all rows in order."""
        if output.key_column is None:
            return cls(shard, output)
        numbers = numbered(np.arange(source.num_rows, dtype=np.uint32), shard, output)
        values = source.column(output.key_column).cast(pa.string()).to_pylist()
        unique = Unique(output.key_prefix)
        named = [unique.key(value or "", number) for value, number in zip(values, numbers, strict=True)]
        first = f"shard {shard_name(shard, output.shard_digits)}, key {unique.first}"
        notes = {KEY: (unique.changed, first)} if unique.changed else None
        return cls(shard, output, pa.array(named, pa.string()), notes)

    def take(self, rows: npt.NDArray[np.uint32]) -> pa.StringArray:
        """Return the keys of some rows."""
        if self.named is not None:
            return self.named.take(pa.array(rows))
        return pa.array(numbered(rows, self.shard, self.output), pa.string())


class Unique:
    """Makes keys of values, each once."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.changed = 0
        self.first = ""
        """The first key that is not the value alone."""
        self._taken: set[str] = set()

    def key(self, value: str, number: str) -> str:
        """Return the key of a row, by the value of its column and its key by number."""
        plain = safe(value)[: LONGEST - len(number)]
        return self.apart(f"{self._prefix}{plain}" if plain else "", number)

    def apart(self, key: str, number: str) -> str:
        """Return a key or, where it is empty or taken, another one with the number."""
        if not key or key.lower() in self._taken:
            key = f"{key}-{number.removeprefix(self._prefix)}" if key else number
            # Another row may have that very value.
            while key.lower() in self._taken:
                key += "-"
            self.changed += 1
            self.first = self.first or key
        self._taken.add(key.lower())
        return key


def numbered(rows: Iterable[Any], shard: int, output: OutputSpec) -> list[str]:
    """Return keys as :func:`~turbo_fetch.dataset.names.sample_key` makes them, after the prefix."""
    digits = index_digits(output.samples_per_shard)
    first, width = shard * 10**digits, digits + output.shard_digits
    return [f"{output.key_prefix}{first + int(row):0{width}d}" for row in rows]


def safe(value: str) -> str:
    """Return a value as part of a file name; empty if it has nothing that may be in one.

    Names that start with `_` are no samples for some readers.
    """
    return _UNSAFE.sub("_", value).lstrip("_")
