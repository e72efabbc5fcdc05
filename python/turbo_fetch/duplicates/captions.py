"""Captions of rows whose URL an earlier row of the list has: on disk, until the shard of that row is made."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from turbo_fetch.storage.failures import explained


class LaterCaptions:
    """Captions of duplicates, by the place of the row that stays. Calls block; OutputError if the disk is full.

    The file has no name, so that it goes with the process, however that ends.
    """

    def __init__(self, path: Path) -> None:
        self._place = str(path)
        path.unlink(missing_ok=True)
        with explained(self._place):
            # Shards are asked for in the thread that hands them out.
            self._table = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for line in (
                "PRAGMA journal_mode = OFF",
                "PRAGMA synchronous = OFF",
                "CREATE TABLE captions (original INTEGER, later INTEGER, caption TEXT)",
            ):
                self._table.execute(line)
            path.unlink()

    def add(self, originals: Iterable[int], laters: Iterable[int], captions: Sequence[str | None]) -> None:
        """Add the captions of rows at the places `laters`."""
        with explained(self._place):
            self._table.executemany(
                "INSERT INTO captions VALUES (?, ?, ?)", zip(originals, laters, captions, strict=True)
            )

    def finish(self) -> None:
        """Make them ready to be asked for."""
        with explained(self._place):
            self._table.execute("CREATE INDEX by_place ON captions (original, later)")

    def of(self, start: int, stop: int) -> dict[int, list[str]]:
        """Return the captions for the rows at places from `start` on, by distance, in the order of the list."""
        found: dict[int, list[str]] = {}
        with explained(self._place):
            rows = self._table.execute(
                "SELECT original, caption FROM captions WHERE original >= ? AND original < ? "
                "AND caption IS NOT NULL ORDER BY original, later",
                (start, stop),
            )
            for original, caption in rows:
                found.setdefault(original - start, []).append(caption)
        return found
