"""A server that answers with bytes, whatever they are: each path has a script, and each request is kept as it came.

    with RawOrigin({"/a.jpg": [b"HTTP/1.1 200 OK\\r\\n…", Pause(0.02), b"…", CLOSE]}) as origin:
        origin.url("/a.jpg")
        origin.requests                       # heads as they arrived, byte for byte

A script is found by the whole target, byte for byte, or by its part before the first `?`; without one the answer is
404. A connection is kept after a script that does not end with CLOSE or RESET.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from types import TracebackType
from typing import Self


class End(Enum):
    """How a connection ends."""

    CLOSE = auto()
    RESET = auto()


CLOSE, RESET = End.CLOSE, End.RESET


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next bytes, so that they are a segment of their own."""

    seconds: float


Script = Sequence[bytes | Pause | End]
_NOT_FOUND: Script = [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]


class RawOrigin:
    """The server; a context manager, on loopback, in a thread of its own."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self.scripts = dict(scripts)
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="raw-origin", daemon=True)
        self._handlers: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def base(self) -> str:
        """Scheme, address and port, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, target: str) -> str:
        """Return the address of a target, which is not touched."""
        return self.base + target

    @property
    def targets(self) -> list[bytes]:
        """What the requests asked for, byte for byte."""
        return [request.split(b" ", 1)[1].rsplit(b" HTTP/", 1)[0] for request in self.requests]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        handler = self._loop.create_task(self._converse(reader, writer))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head.partition(b"\r\n")[0])
        target = self.targets[-1].decode("latin-1")
        for step in self.scripts.get(target) or self.scripts.get(target.partition("?")[0], _NOT_FOUND):
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            else:
                if step is RESET:
                    raw: socket.socket = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                return False
        return True
