"""Documents of a host, /robots.txt and /.well-known/tdmrep.json: requested, and shared by the workers of a machine.

They are kept in a small SQLite file in the work folder: a resumed run asks nobody again within a day, and of several
workers that meet a host at once, one asks and the others wait for the response. It is a cache: whatever happens to the
file costs a request, never a run.
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

from turbo_fetch.fetch.codings import CodingError, Unpacker
from turbo_fetch.fetch.deadline import Deadline
from turbo_fetch.fetch.failures import Failure, status_failure
from turbo_fetch.fetch.origins import Origin
from turbo_fetch.fetch.redirects import drain, is_redirect, redirect_target
from turbo_fetch.fetch.response import Response
from turbo_fetch.fetch.robots import MAX_BYTES
from turbo_fetch.fetch.session import Session
from turbo_fetch.outcomes import Outcome

LIFETIME_S: Final = 86_400.0
"""RFC 9309, 2.4: not to be used for longer than a day."""

CLAIM_S: Final = 30.0
"""How long others wait for the worker that asks; it may have died."""

POLL_S: Final = 0.05
MAX_REDIRECTS: Final = 5
"""RFC 9309, 2.3.1.2."""

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS documents (url TEXT PRIMARY KEY, since REAL, status INT, text TEXT)"
)


@dataclass(frozen=True, slots=True)
class Document:
    """A response: `status` and the `text` of a 2xx, or the failure to get one."""

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


async def read_document(
    address: str, session: Session, problem_of: Callable[[Origin], Failure | None], deadline: Deadline
) -> Document:
    """Return the document at an address, with up to five redirects; `problem_of` says where not to go."""
    name = address.partition("?")[0].rpartition("/")[2]
    for _ in range(MAX_REDIRECTS + 1):
        origin = session.origin(address)
        problem = problem_of(origin)
        if problem is not None:
            return Document(failure=problem)
        response = await session.get(origin, address, {"Accept": "*/*"})
        try:
            if is_redirect(response):
                onward = redirect_target(address, response)
                await drain(response)
                if onward is None or not onward.startswith(("http:", "https:")):
                    break
                address = onward
                continue
            if response.status == 429 or response.status >= 500:
                outcome, detail = status_failure(response.status, response.reason)
                return Document(failure=(outcome, f"{name}: {detail}"))
            if not 200 <= response.status < 300:
                await drain(response)
                return Document(response.status)
            deadline.progress()
            return Document(response.status, await _beginning(response, deadline))
        finally:
            response.close()
    # RFC 9309, 2.3.1.2 and 2.3.1.3: what redirects further is as good as not there.
    return Document(404)


async def _beginning(response: Response, deadline: Deadline) -> str:
    """Read as much of a document as counts."""
    content = response.body
    data = bytearray()
    while len(data) < MAX_BYTES and (chunk := await content.readany()):
        deadline.progress()
        data += chunk
    return _unpacked(bytes(data[:MAX_BYTES]), content.framing.codings).decode("utf-8-sig", "replace")


def _unpacked(data: bytes, codings: tuple[str, ...]) -> bytes:
    """Undo codings as far as counts, and as far as they are true: a document that is none of theirs is as it came."""
    unpacker = Unpacker(codings)
    result = bytearray()
    try:
        for piece in unpacker.decode(data, is_last=True):
            result += piece
            if len(result) >= MAX_BYTES:
                break
    except CodingError:
        return bytes(result) or data
    return bytes(result[:MAX_BYTES])
