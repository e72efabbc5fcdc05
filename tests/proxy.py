"""A real proxy on loopback: HTTP in absolute form and by CONNECT, SOCKS 4, 4a and 5, with its faults."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import urlsplit

from threaded_server import ThreadedServer

Address = tuple[str, int]


class Proxy(ThreadedServer):
    """A proxy; a context manager. It knows by the first byte which protocol is spoken.

    `routes` says where hosts are, by name, as they were asked for. `login` is the `user:password` that it wants.
    `refuses` is the status, or reply of SOCKS, with which it answers to all; by `hangs` it does so never, by `closes`
    it hangs up. With `tls` it is spoken to by TLS.
    """

    def __init__(
        self,
        routes: Mapping[str, Address] | None = None,
        *,
        login: str | None = None,
        refuses: int | None = None,
        hangs: bool = False,
        closes: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls=tls)
        self.asked: list[str] = []
        """Hosts and ports that were asked for, as they were written."""
        self.kinds: Counter[str] = Counter()
        self._routes = dict(routes or {})
        self._login = login
        self._refuses = refuses
        self._hangs = hangs
        self._closes = closes

    def url(self, scheme: str = "http", login: str | None = None, host: str = "127.0.0.1") -> str:
        """Return the address of the proxy, for a client that uses it by `scheme`."""
        return f"{scheme}://{f'{login}@' if login else ''}{host}:{self.port}"

    async def converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        """Speak the protocol that the client begins to speak."""
        try:
            first = await reader.readexactly(1)
            if self._hangs:
                await reader.read()
            elif not self._closes:
                speak = {b"\x04": self._socks4, b"\x05": self._socks5}.get(first, self._http)
                await speak(first, reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        finally:
            await _close(writer)

    async def _http(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = first + await reader.readuntil(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        method, target, _ = line.decode("latin-1").split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        self._note(method, parts.netloc)
        status = self._refuses
        wanted = f"proxy-authorization: basic {base64.b64encode((self._login or '').encode()).decode()}\r\n"
        if self._login is not None and wanted.lower() not in fields.decode("latin-1").lower():
            status = HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
        if status is not None:
            await self._answer(writer, status)
            return
        try:
            onward = await self._reach(parts.hostname or "", parts.port or 80)
        except OSError:
            await self._answer(writer, HTTPStatus.BAD_GATEWAY)
            return
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = target[target.index(parts.netloc) + len(parts.netloc) :] or "/"
            kept = [
                field
                for field in fields.split(b"\r\n")
                if field and not field.lower().startswith((b"proxy-", b"connection"))
            ]
            onward[1].write(
                b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), *kept, b"Connection: close", b"", b""])
            )
        await _join((reader, writer), onward)

    async def _answer(self, writer: asyncio.StreamWriter, status: int) -> None:
        writer.write(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()

    async def _socks5(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        method = 2 if self._login is not None else 0
        writer.write(bytes([5, method if method in methods else 0xFF]))
        if method not in methods:
            return
        if method == 2:
            await reader.readexactly(1)
            user = await reader.readexactly((await reader.readexactly(1))[0])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            is_right = f"{user.decode()}:{password.decode()}" == self._login
            writer.write(bytes([1, not is_right]))
            if not is_right:
                return
        _, _, _, kind = await reader.readexactly(4)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            family = socket.AF_INET if kind == 1 else socket.AF_INET6
            host = socket.inet_ntop(family, await reader.readexactly(4 if kind == 1 else 16))
        (port,) = struct.unpack("!H", await reader.readexactly(2))
        self._note("socks5", f"{host}:{port}")
        await self._tunnel(host, port, (reader, writer), b"\x05%c\x00\x01" + bytes(6), (0, 5))

    async def _socks4(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, port, address = struct.unpack("!BH4s", await reader.readexactly(7))
        await reader.readuntil(b"\0")
        host = socket.inet_ntoa(address)
        if host.startswith("0.0.0."):
            host = (await reader.readuntil(b"\0"))[:-1].decode()
        self._note("socks4", f"{host}:{port}")
        await self._tunnel(host, port, (reader, writer), b"\x00%c" + bytes(6), (0x5A, 0x5B))

    async def _tunnel(
        self,
        host: str,
        port: int,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        reply: bytes,
        codes: tuple[int, int],
    ) -> None:
        good, bad = codes
        if self._refuses is not None:
            client[1].write(reply % self._refuses)
            return
        try:
            onward = await self._reach(host, port)
        except OSError:
            client[1].write(reply % bad)
            return
        client[1].write(reply % good)
        await _join(client, onward)

    def _note(self, kind: str, host: str) -> None:
        self.kinds[kind] += 1
        self.asked.append(host)

    async def _reach(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if host not in self._routes and not host.startswith("127."):
            raise OSError("no such host")
        return await asyncio.open_connection(*self._routes.get(host, (host, port)))


async def _join(
    one: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    other: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Pass bytes on in both directions until either side ends."""
    directions = [
        asyncio.ensure_future(_pass_on(one[0], other[1])),
        asyncio.ensure_future(_pass_on(other[0], one[1])),
    ]
    try:
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for direction in directions:
            direction.cancel()
        await _close(other[1])


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
