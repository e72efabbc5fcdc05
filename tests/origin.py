"""A real HTTP/1.1 origin on loopback that serves images, with every fault that real servers show.

    with Origin({"cat.jpg": jpeg}) as origin:
        origin.url("cat.jpg")                                   # served well
        origin.url("cat.jpg", "truncated")                      # fewer bytes than announced
        origin.url("cat.jpg", "status", code=503, retry_after=1, times=2)   # twice, then well
        origin.hits["/cat.jpg"]

It speaks raw asyncio streams in a thread and loop of its own, so that it can break the protocol and is not
disturbed by the loop under test. A fault and its parameters travel in the query, so the address alone says
what will happen, in any process. Faults are listed in :mod:`origin_faults`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import trustme

from origin_faults import FAULTS, ConnectionEnds, Exchange, respond
from threaded_server import ThreadedServer

HEAD_LIMIT_BYTES = 65_536
CONTENT_TYPES = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp", "gif": "gif"}


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived; header names are lower-case."""

    target: str
    headers: Mapping[str, str]
    connection: int
    at_s: float = 0.0
    """When, on the monotonic clock."""


@dataclass(slots=True)
class Load:
    """How many requests are being answered now, and were at most."""

    now: int = 0
    most: int = 0
    by_host_now: Counter[str] = field(default_factory=Counter)
    by_host_most: Counter[str] = field(default_factory=Counter)

    def begin(self, host: str) -> None:
        """Count a request in."""
        self.now += 1
        self.most = max(self.most, self.now)
        self.by_host_now[host] += 1
        self.by_host_most[host] = max(self.by_host_most[host], self.by_host_now[host])

    def end(self, host: str) -> None:
        """Count a request out."""
        self.now -= 1
        self.by_host_now[host] -= 1


@dataclass(frozen=True, slots=True)
class _Hold:
    """The number of the last request that is answered, and what the others wait for."""

    after: int
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Origin(ThreadedServer):
    """The server; a context manager. `pictures` maps paths without a leading slash to bytes, or is a folder.

    `latency_s` delays every response. `tls` serves https with a certificate for `names`, signed by an
    authority of its own whose PEM is `authority_pem`. Counters may be read from any thread at any time.
    """

    def __init__(
        self,
        pictures: Mapping[str, bytes] | Path,
        *,
        latency_s: float = 0.0,
        tls: bool = False,
        names: tuple[str, ...] = ("127.0.0.1", "localhost"),
        address: str = "127.0.0.1",
    ) -> None:
        self.authority_pem = b""
        self.pictures = pictures
        self.latency_s = latency_s
        context = self._server_context(names) if tls else None
        super().__init__(address, context, backlog=4096, limit=HEAD_LIMIT_BYTES)
        self.is_tls = tls
        self.hits: Counter[str] = Counter()
        """Requests per path, without the query."""
        self.targets: Counter[str] = Counter()
        """Requests per path with its query."""
        self.received: list[Received] = []
        self.load = Load()
        self._hold: _Hold | None = None

    @property
    def base(self) -> str:
        """Scheme, address and port, without a slash at the end."""
        return f"{'https' if self.is_tls else 'http'}://{self.address}:{self.port}"

    def url(self, path: str, fault: str | None = None, **parameters: object) -> str:
        """Return the address of an image; `fault` and its `parameters` say how it is served."""
        address = f"{self.base}/{quote(path.lstrip('/'))}"
        if fault is None:
            return address
        if fault not in FAULTS:
            raise ValueError(f"fault is {fault!r}, expected one of {', '.join(sorted(FAULTS))}")
        return f"{address}?{urlencode({'fault': fault, **parameters})}"

    @contextmanager
    def holding_after(self, more: int) -> Iterator[int]:
        """Answer so many more requests, and those after them only when the block ends.

        A run of more rows cannot end within the block, however slow the rest of the machine is. Yields how many
        requests there are with those.
        """
        hold = self._hold = _Hold(len(self.received) + more)
        try:
            yield hold.after
        finally:
            self._hold = None
            self.loop.call_soon_threadsafe(hold.ended.set)

    @contextmanager
    def slowed(self, latency_s: float) -> Iterator[None]:
        """Take so long for each response meanwhile."""
        before, self.latency_s = self.latency_s, latency_s
        try:
            yield
        finally:
            self.latency_s = before

    def write_authority(self, folder: Path) -> Path:
        """Write the certificate authority as a PEM file into `folder` and return its path."""
        path = folder / "authority.pem"
        path.write_bytes(self.authority_pem)
        return path

    def _server_context(self, names: tuple[str, ...]) -> ssl.SSLContext:
        authority = trustme.CA()
        self.authority_pem = authority.cert_pem.bytes()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(*names).configure_cert(context)
        return context

    async def converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        """Answer requests on one connection until either side ends it."""
        try:
            while True:
                first = await reader.readexactly(1)
                if not first.isupper():
                    writer.write(
                        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )
                    return
                head = first + await reader.readuntil(b"\r\n\r\n")
                await self._answer(head, reader, writer, connection)
        except (ConnectionEnds, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        target, headers = parse_head(head)
        parts = urlsplit(target)
        host = headers.get("host", "")
        self.hits[parts.path] += 1
        self.targets[target] += 1
        self.received.append(Received(target, headers, connection, time.monotonic()))
        hold, number = self._hold, len(self.received)
        self.load.begin(host)
        try:
            if hold is not None and number > hold.after:
                await _end_of(hold, reader)
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            parameters = dict(parse_qsl(parts.query))
            body = await self._body(unquote(parts.path.lstrip("/")))
            suffix = parts.path.rpartition(".")[2].lower()
            kind = f"image/{CONTENT_TYPES[suffix]}" if suffix in CONTENT_TYPES else "application/octet-stream"
            exchange = Exchange(
                target,
                parameters,
                headers,
                body or b"",
                kind,
                reader,
                writer,
                self.targets[target],
                self.base,
                lambda: len(self.received),
            )
            fault = FAULTS.get(parameters.get("fault", ""))
            if fault is not None:
                await fault(exchange)
            elif body is None:
                await respond(exchange, HTTPStatus.NOT_FOUND, b"no such image\n", content_type="text/plain")
            else:
                await respond(exchange)
        finally:
            self.load.end(host)

    async def _body(self, path: str) -> bytes | None:
        if isinstance(self.pictures, Path):
            file = self.pictures / path
            exists = await asyncio.to_thread(file.is_file)
            return await asyncio.to_thread(file.read_bytes) if exists else None
        return self.pictures.get(path)


async def _end_of(hold: _Hold, reader: asyncio.StreamReader) -> None:
    """Wait until no request is held any more; who has closed the connection meanwhile is not waiting."""
    closed, ended = asyncio.ensure_future(reader.read(1)), asyncio.ensure_future(hold.ended.wait())
    try:
        await asyncio.wait({closed, ended}, return_when=asyncio.FIRST_COMPLETED)
        if closed.done():
            raise ConnectionEnds
    finally:
        closed.cancel()
        ended.cancel()
        await asyncio.gather(closed, ended, return_exceptions=True)


def parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Return target and headers (names in lower case) of a request head."""
    request_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return request_line.split(" ")[1], headers
