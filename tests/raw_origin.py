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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from threaded_server import ThreadedServer


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


class RawOrigin(ThreadedServer):
    """The server; a context manager, on loopback, in a thread of its own."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        super().__init__(backlog=1024)
        self.scripts = dict(scripts)
        self.requests: list[bytes] = []

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

    async def converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        """Follow the scripts that are asked for."""
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
