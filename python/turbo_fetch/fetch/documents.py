"""What hosts answered to /robots.txt and /.well-known/tdmrep.json, shared by all workers of a machine.

A small SQLite file in the work folder: a resumed run asks nobody again within a day, and of several workers that
meet a host at once, one asks and the others wait for its answer. It is a cache: whatever happens to the file
costs a request, never a run.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Final

from turbo_fetch.outcomes import Outcome

LIFETIME_S: Final = 86_400.0
"""RFC 9309, 2.4: not to be used for longer than a day."""

CLAIM_S: Final = 30.0
"""How long others wait for the worker that asks; it may have died."""

POLL_S: Final = 0.05

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS documents (url TEXT PRIMARY KEY, since REAL, status INT, text TEXT)"
)


@dataclass(frozen=True, slots=True)
class Document:
    """An answer: `status` and the `text` of a 2xx, or the failure to get one."""

    status: int = 0
    text: str = ""
    failure: tuple[Outcome, str] | None = None


Ask = Callable[[str], Awaitable[Document]]
"""Requests the address of a document; never raises."""


class SharedDocuments:
    """The cache, as one worker sees it; belongs to one event loop. Failures are not shared: they pass."""

    def __init__(self, path: Path, clock: Callable[[], float] = time) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "documents")
        self._database: sqlite3.Connection | None = None

    async def get(self, url: str, ask: Ask) -> Document:
        """Return the document at `url`, asked for if no worker has done so within a day."""
        while True:
            found = await self._do(self._find_or_claim, url)
            if isinstance(found, Document):
                return found
            if found:
                break
            await asyncio.sleep(POLL_S)
        document = Document(failure=(Outcome.CONNECT, "cancelled"))
        try:
            document = await ask(url)
        finally:
            await asyncio.shield(self._do(self._store, url, document))
        return document

    async def close(self) -> None:
        """Close the file."""
        await self._do(self._close)
        self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[..., object], *arguments: object) -> object:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _find_or_claim(self, url: str) -> Document | bool:
        """Return the document; or True if this worker shall ask, False if another one is asking."""
        now_s = self._clock()
        try:
            database = self._opened()
            with database:
                database.execute("BEGIN IMMEDIATE")
                row = database.execute(
                    "SELECT since, status, text FROM documents WHERE url = ?", (url,)
                ).fetchone()
                if row is not None:
                    since_s, status, text = row
                    # What was written in the future was written before the clock was set back, who knows when.
                    age_s = now_s - since_s
                    if 0 <= age_s < (CLAIM_S if status is None else LIFETIME_S):
                        return Document(status, text) if status is not None else False
                database.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, NULL, NULL)", (url, now_s))
        except sqlite3.Error:
            return True
        return True

    def _store(self, url: str, document: Document) -> None:
        try:
            database = self._opened()
            with database:
                if document.failure is not None:
                    database.execute("DELETE FROM documents WHERE url = ? AND status IS NULL", (url,))
                else:
                    row = (url, self._clock(), document.status, document.text)
                    database.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error:
            return

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            try:
                self._database = self._connect()
            except sqlite3.DatabaseError:
                self._path.unlink(missing_ok=True)
                self._database = self._connect()
        return self._database

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=5, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA synchronous = OFF")
        database.execute(_TABLE)
        return database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
