"""What was odd about the rows of a list: counted by kind, with the first of each, from the reader to the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from turbo_fetch.errors import InputError
from turbo_fetch.redaction import redact

MISFIT: Final = "misfit "
"""Starts the kind of values that do not fit the type of their column, before the column's name."""

KEY: Final = "key"
"""The kind of rows whose key is not the value of the column of keys alone."""

_MEANINGS: Final = {
    KEY: "no usable key, or one that an earlier row of the shard has, so the row's number is in it",
    "quotes": "a quote at the start of a field was taken as text",
    "short": "too few fields; the missing ones are null",
    "surplus": "too many fields, so no usable URL",
    "malformed": "not a JSON object, so no usable URL",
    "undecodable": "bytes that are not UTF-8 became U+FFFD",
}


@dataclass(slots=True)
class ListNotes:
    """Counts by kind, and the place of the first of each. `rows_before` says how many rows of the file were read."""

    file: str = ""
    rows_before: int = 0
    counts: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, rows: int, line: int) -> None:
        """Count rows of the file, the first of which is in this line, counted from 1."""
        self._count(kind, rows, f"{redact(self.file)}, line {line:,}")

    def add_at(self, kind: str, rows: int, index: int, value: object = None) -> None:
        """Count rows of the file, the first of which has this index in the batch that is being read."""
        shown = "" if value is None else f": {str(value)[:60]!r}"
        self._count(kind, rows, f"{redact(self.file)}, row {self.rows_before + index + 1:,}{shown}")

    def merge(self, other: Mapping[str, tuple[int, str]]) -> None:
        """Add the counts of another part of the list."""
        for kind, (rows, first) in other.items():
            self._count(kind, rows, first)

    def take(self) -> dict[str, tuple[int, str]]:
        """Return the counts, and begin anew."""
        counts, self.counts = self.counts, {}
        return counts

    def refuse(self) -> None:
        """Raise InputError if anything was odd."""
        for sentence in sentences(self.counts):
            raise InputError(
                f"{sentence}. With fetch.input.strict = true this ends the run: fix the list, declare how to read it "
                "(fetch.input.quoting, fetch.input.column_types), or remove strict"
            )

    def _count(self, kind: str, rows: int, first: str) -> None:
        before, earliest = self.counts.get(kind, (0, first))
        self.counts[kind] = (before + rows, earliest)


def sentences(counts: Mapping[str, Any]) -> list[str]:
    """Return what was counted as sentences for a person."""
    return [
        f"{rows:,} {'row' if rows == 1 else 'rows'}: {_meaning(kind)} (first: {first})"
        for kind, (rows, first) in counts.items()
    ]


def _meaning(kind: str) -> str:
    if kind.startswith(MISFIT):
        return f"the value of column {kind.removeprefix(MISFIT)} and became null"
    return _MEANINGS[kind]
