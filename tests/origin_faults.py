"""The ways in which :class:`origin.Origin` answers badly, one function each, named in :data:`FAULTS`.

Parameters come from the query. `times=k`, for any fault, means: only the first k requests to this target
fail, later ones are served well.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus

FOREVER_S = 3600.0
PHRASES = {status.value: status.phrase for status in HTTPStatus}


class ConnectionEnds(Exception):
    """The exchange is over and the connection with it."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and the means to answer it."""

    target: str
    parameters: Mapping[str, str]
    request_headers: Mapping[str, str]
    body: bytes
    content_type: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    hit: int
    """How many times this target was asked for, this request included."""
    base: str
    asked: Callable[[], int]
    """How many requests the origin has had until now."""

    def number(self, name: str, default: float) -> float:
        """Return a parameter as a number."""
        return float(self.parameters.get(name, default))


Fault = Callable[[Exchange], Awaitable[None]]
FAULTS: dict[str, Fault] = {}


def fault(behaviour: Fault) -> Fault:
    """Enter a behaviour into FAULTS by its name; after `times` hits the target is served well."""

    @wraps(behaviour)
    async def limited(exchange: Exchange) -> None:
        if exchange.hit > exchange.number("times", float("inf")):
            await respond(exchange)
        else:
            await behaviour(exchange)

    FAULTS[behaviour.__name__] = limited
    return limited


async def send_head(
    exchange: Exchange,
    status: int = 200,
    length: int | None = None,
    extra: Mapping[str, str] | None = None,
    content_type: str | None = None,
) -> None:
    """Send a response head; without `length` the body is framed by the caller."""
    reason = PHRASES.get(status, "Custom")
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Type: {content_type or exchange.content_type}"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    lines += [f"{name}: {value}" for name, value in (extra or {}).items()]
    exchange.writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    await exchange.writer.drain()


async def send(exchange: Exchange, data: bytes) -> None:
    """Send body bytes."""
    exchange.writer.write(data)
    await exchange.writer.drain()


async def respond(
    exchange: Exchange,
    status: int = 200,
    body: bytes | None = None,
    extra: Mapping[str, str] | None = None,
    content_type: str | None = None,
) -> None:
    """Answer well."""
    payload = exchange.body if body is None else body
    await send_head(exchange, status, len(payload), extra, content_type)
    await send(exchange, payload)


def reset(exchange: Exchange) -> None:
    """End the connection with RST instead of FIN."""
    raw: socket.socket = exchange.writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.writer.transport.abort()
    raise ConnectionEnds


async def until_closed(exchange: Exchange, seconds: float = FOREVER_S) -> None:
    """Wait until the client closes, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await exchange.reader.read(1)
    except TimeoutError:
        return
    raise ConnectionEnds


@fault
async def status(exchange: Exchange) -> None:
    """`code` with an optional `retry_after` header."""
    extra = (
        {"Retry-After": exchange.parameters["retry_after"]} if "retry_after" in exchange.parameters else {}
    )
    code = int(exchange.parameters["code"])
    await respond(
        exchange, code, b"" if code == HTTPStatus.NOT_MODIFIED else b"refused\n", extra, "text/plain"
    )


@fault
async def late_page(exchange: Exchange) -> None:
    """`code`, with Location `to` if given, and a short page that follows its head after a while."""
    page = b"another page\n"
    extra = {"Location": exchange.parameters["to"]} if "to" in exchange.parameters else None
    await send_head(exchange, int(exchange.parameters["code"]), len(page), extra, "text/plain")
    await until_closed(exchange, exchange.number("seconds", 0.02))
    await send(exchange, page)


@fault
async def reset_before_headers(exchange: Exchange) -> None:
    """RST without an answer."""
    reset(exchange)


@fault
async def close_before_headers(exchange: Exchange) -> None:
    """FIN without an answer."""
    raise ConnectionEnds


@fault
async def reset_in_body(exchange: Exchange) -> None:
    """RST after half of the body."""
    await send_head(exchange, length=len(exchange.body))
    await send(exchange, exchange.body[: len(exchange.body) // 2])
    reset(exchange)


@fault
async def truncated(exchange: Exchange) -> None:
    """Content-Length 1,000 bytes too large, then FIN."""
    await send_head(exchange, length=len(exchange.body) + 1000)
    await send(exchange, exchange.body)
    raise ConnectionEnds


@fault
async def overlong(exchange: Exchange) -> None:
    """1,000 bytes more than Content-Length announced."""
    await send_head(exchange, length=len(exchange.body))
    await send(exchange, exchange.body + b"x" * 1000)


@fault
async def chunked(exchange: Exchange) -> None:
    """A correct chunked body in chunks of `size` bytes."""
    await _send_chunks(exchange)
    await send(exchange, b"0\r\n\r\n")


@fault
async def chunked_without_end(exchange: Exchange) -> None:
    """A chunked body without its last chunk."""
    await _send_chunks(exchange)
    raise ConnectionEnds


async def _send_chunks(exchange: Exchange) -> None:
    await send_head(exchange, extra={"Transfer-Encoding": "chunked"})
    size = int(exchange.number("size", 65_536))
    for start in range(0, len(exchange.body), size):
        chunk = exchange.body[start : start + size]
        await send(exchange, f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")


@fault
async def until_close(exchange: Exchange) -> None:
    """A body without length, ended by FIN."""
    await send_head(exchange, extra={"Connection": "close"})
    await send(exchange, exchange.body)
    raise ConnectionEnds


@fault
async def endless(exchange: Exchange) -> None:
    """A chunked body of zeros that never ends."""
    await send_head(exchange, extra={"Transfer-Encoding": "chunked"})
    while True:
        await send(exchange, b"10000\r\n" + bytes(65_536) + b"\r\n")


@fault
async def announced(exchange: Exchange) -> None:
    """A Content-Length of `length` bytes and a body that is never sent."""
    await send_head(exchange, length=int(exchange.number("length", 1000)))
    await until_closed(exchange)


@fault
async def dribble(exchange: Exchange) -> None:
    """`size` bytes every `interval_s` seconds."""
    size, interval_s = int(exchange.number("size", 10)), exchange.number("interval_s", 0.05)
    await send_head(exchange, length=len(exchange.body))
    for start in range(0, len(exchange.body), size):
        await send(exchange, exchange.body[start : start + size])
        await until_closed(exchange, interval_s)


@fault
async def stall(exchange: Exchange) -> None:
    """Half of the body, then silence for `seconds` (by default for ever), then the rest."""
    half = len(exchange.body) // 2
    await send_head(exchange, length=len(exchange.body))
    await send(exchange, exchange.body[:half])
    await until_closed(exchange, exchange.number("seconds", FOREVER_S))
    await send(exchange, exchange.body[half:])


@fault
async def held(exchange: Exchange) -> None:
    """Half of the body, and the rest when the origin has had `until` requests."""
    half = len(exchange.body) // 2
    await send_head(exchange, length=len(exchange.body))
    await send(exchange, exchange.body[:half])
    while exchange.asked() < exchange.number("until", 0):
        await until_closed(exchange, 0.01)
    await send(exchange, exchange.body[half:])


@fault
async def slow_headers(exchange: Exchange) -> None:
    """Silence for `seconds` before the answer."""
    await until_closed(exchange, exchange.number("seconds", FOREVER_S))
    await respond(exchange)


@fault
async def redirect(exchange: Exchange) -> None:
    """`hops` redirects with status `code` before the image."""
    path = exchange.target.partition("?")[0]
    hops, code = int(exchange.number("hops", 1)), int(exchange.number("code", 302))
    onward = f"{path}?fault=redirect&hops={hops - 1}&code={code}" if hops > 1 else path
    await respond(exchange, code, b"", {"Location": onward})


@fault
async def redirect_loop(exchange: Exchange) -> None:
    """A redirect to itself."""
    await respond(exchange, 302, b"", {"Location": exchange.base + exchange.target})


@fault
async def redirect_to(exchange: Exchange) -> None:
    """A redirect to the address `to`, whatever it is."""
    await respond(exchange, int(exchange.number("code", 302)), b"", {"Location": exchange.parameters["to"]})


@fault
async def redirect_nowhere(exchange: Exchange) -> None:
    """A redirect without Location."""
    await respond(exchange, 302, b"")


@fault
async def garbage(exchange: Exchange) -> None:
    """Something that is not HTTP."""
    await send(exchange, b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    raise ConnectionEnds


@fault
async def huge_headers(exchange: Exchange) -> None:
    """A header of a megabyte."""
    await respond(exchange, extra={"X-Huge": "h" * 1_000_000})


@fault
async def header(exchange: Exchange) -> None:
    """The image with header `name: value`."""
    await respond(exchange, extra={exchange.parameters["name"]: exchange.parameters["value"]})


@fault
async def validated(exchange: Exchange) -> None:
    """The image with an ETag, or 304 to a request that names it."""
    tag = f'"{hashlib.sha256(exchange.body).hexdigest()[:16]}"'
    if exchange.request_headers.get("if-none-match") == tag:
        await send_head(exchange, 304, 0, {"ETag": tag})
    elif not exchange.body:
        await respond(exchange, 404, b"gone")
    else:
        await respond(exchange, extra={"ETag": tag})


@fault
async def robots(exchange: Exchange) -> None:
    """X-Robots-Tag `tag` and a body of `length` bytes that is never sent."""
    length = int(exchange.number("length", 1_000_000))
    await send_head(exchange, length=length, extra={"X-Robots-Tag": exchange.parameters["tag"]})
    await until_closed(exchange)


@fault
async def content_type(exchange: Exchange) -> None:
    """The image under another media `type`."""
    await respond(exchange, content_type=exchange.parameters["type"])


@fault
async def gzipped(exchange: Exchange) -> None:
    """The image with Content-Encoding gzip, though nobody asked for it."""
    await respond(exchange, body=gzip.compress(exchange.body), extra={"Content-Encoding": "gzip"})


@fault
async def gzip_broken(exchange: Exchange) -> None:
    """Content-Encoding gzip over bytes that are not gzip."""
    await respond(exchange, extra={"Content-Encoding": "gzip"})


@fault
async def gzip_bomb(exchange: Exchange) -> None:
    """A few kilobytes that unpack to `megabytes` of zeros."""
    bomb = gzip.compress(bytes(int(exchange.number("megabytes", 100)) * 1_000_000))
    await respond(exchange, body=bomb, extra={"Content-Encoding": "gzip"})


@fault
async def no_content(exchange: Exchange) -> None:
    """204 without a body."""
    exchange.writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    await exchange.writer.drain()


@fault
async def close(exchange: Exchange) -> None:
    """The image, well served, and the end of the connection."""
    await respond(exchange, extra={"Connection": "close"})
    raise ConnectionEnds
