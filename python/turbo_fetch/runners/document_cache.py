"""What hosts said of consent, and who answered lately, in a small SQLite file: a resumed run asks nobody again within a
day, and knows whom to ask whether the network works.

It is a cache: whatever happens to the file costs requests, never a run, and nothing that was not said counts as said:
rows have a sum of their own, since SQLite does not see what a disk has made of its pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final, TypeVar

from turbo_fetch.fetch.documents import LIFETIME_S, Document

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")

MAX_BYTES: Final = 2_000_000_000
"""Of the file; what was learnt first is forgotten first."""
IN_MEMORY: Final = ":memory:"
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS said (url TEXT PRIMARY KEY, since REAL, status INT, text TEXT, sum BLOB)",
    "CREATE TABLE IF NOT EXISTS reached (domain TEXT PRIMARY KEY, since REAL, address TEXT, sum BLOB)",
)
_OLDEST: Final = "DELETE FROM said WHERE rowid IN (SELECT rowid FROM said ORDER BY rowid LIMIT ?)"


class DocumentCache:
    """The file; opened when it is first needed, and used by one thread."""

    def __init__(self, path: Path, clock: Callable[[], float] = time, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._clock = clock
        self._max_bytes = max_bytes
        self._database: sqlite3.Connection | None = None

    def find(self, urls: Iterable[str]) -> dict[str, Document]:
        """Return those of the documents that are known and not too old."""
        return self._do(lambda database: self._find(database, urls)) or {}

    def store(self, documents: Mapping[str, Document]) -> None:
        """Keep documents."""
        if documents:
            self._do(lambda database: self._store(database, documents))

    def answered(self) -> dict[str, str]:
        """Return hosts that answered at the end of the last run, by domain; none if that is too long ago."""
        return self._do(self._answered) or {} if self._path.exists() else {}

    def store_answered(self, hosts: Mapping[str, str]) -> None:
        """Keep these hosts alone."""
        self._do(lambda database: self._store_answered(database, hosts))

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do something with the file, or, from the first error on, with memory instead of it."""
        import sqlite3

        try:
            return work(self._opened())
        except (sqlite3.Error, OSError, ValueError):
            # Of a damaged file also texts, even of errors, that cannot be decoded.
            self.close()
            self._database = _connect(IN_MEMORY)
            return None

    def _find(self, database: sqlite3.Connection, urls: Iterable[str]) -> dict[str, Document]:
        now_s = self._clock()
        found = {}
        for url in urls:
            row = database.execute(
                "SELECT * FROM said WHERE url = ? AND status IS NOT NULL", (url,)
            ).fetchone()
            if row is not None and _is_whole(row) and _is_recent(row[1], now_s):
                found[url] = Document(row[2], row[3])
        return found

    def _store(self, database: sqlite3.Connection, documents: Mapping[str, Document]) -> None:
        now_s = self._clock()
        with database:
            database.execute("BEGIN")
            database.executemany(
                "INSERT OR REPLACE INTO said VALUES (?, ?, ?, ?, ?)",
                [_summed(url, now_s, document.status, document.text) for url, document in documents.items()],
            )
            pages, free, size = (
                database.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
            if (pages - free) * size > self._max_bytes:
                database.execute(_OLDEST, (2 * len(documents),))

    def _answered(self, database: sqlite3.Connection) -> dict[str, str]:
        now_s = self._clock()
        found = filter(_is_whole, database.execute("SELECT * FROM reached ORDER BY rowid").fetchall())
        return {domain: address for domain, since_s, address, _ in found if _is_recent(since_s, now_s)}

    def _store_answered(self, database: sqlite3.Connection, hosts: Mapping[str, str]) -> None:
        now_s = self._clock()
        with database:
            database.execute("BEGIN")
            database.execute("DELETE FROM reached")
            rows = [_summed(domain, now_s, address) for domain, address in hosts.items()]
            database.executemany("INSERT INTO reached VALUES (?, ?, ?, ?)", rows)

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            import sqlite3

            try:
                self._database = _connect(str(self._path))
            except sqlite3.OperationalError:
                raise
            except (sqlite3.DatabaseError, ValueError):
                self._path.unlink(missing_ok=True)
                self._database = _connect(str(self._path))
        return self._database


def _summed(*row: object) -> tuple[object, ...]:
    return (*row, hashlib.blake2b(repr(row).encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _is_whole(row: tuple[object, ...]) -> bool:
    return _summed(*row[:-1]) == row


def _is_recent(since_s: float, now_s: float) -> bool:
    """Whether something counts; of the future it is of before the clock was set back, who knows when."""
    return 0 <= now_s - since_s < LIFETIME_S


def _connect(path: str) -> sqlite3.Connection:
    import sqlite3

    database = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA synchronous = OFF")
        for table in _TABLES:
            database.execute(table)
    except BaseException:
        database.close()
        raise
    return database
