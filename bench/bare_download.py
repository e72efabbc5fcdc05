"""The least that a download costs: bare sockets on uvloop, each body made one object and dropped."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, cast

import uvloop

IN_FLIGHT: Final = 64
_LENGTH: Final = re.compile(rb"Content-Length: (\d+)")


def bare_download_s(url: str, names: Sequence[str]) -> float:
    """Return the CPU seconds that it takes to fetch files by their names from a server on loopback."""
    port = int(url.rpartition(":")[2])
    begun_s = time.process_time()
    uvloop.run(_fetch(port, names))
    return time.process_time() - begun_s


async def _fetch(port: int, names: Sequence[str]) -> None:
    loop = asyncio.get_running_loop()
    paths = iter([name.encode() for name in names])
    ended = [loop.create_future() for _ in range(IN_FLIGHT)]
    for end in ended:
        await loop.create_connection(partial(_Fetching, paths, end), "127.0.0.1", port)
    await asyncio.gather(*ended)


class _Fetching(asyncio.Protocol):
    """Asks for one address after the other over a connection, and reads what comes until it is as long as announced."""

    def __init__(self, paths: Iterator[bytes], ended: asyncio.Future[None]) -> None:
        self._paths = paths
        self._ended = ended
        self._pieces: list[bytes] = []
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the first address."""
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of a body become one object, as a client has to hand it over."""
        if not self._left:
            head, _, data = data.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            assert length is not None
            self._left = int(length[1])
        self._pieces.append(data)
        self._left -= len(data)
        if not self._left:
            b"".join(self._pieces)
            self._ask()

    def _ask(self) -> None:
        self._pieces.clear()
        path = next(self._paths, None)
        if path is None:
            self._transport.close()
            self._ended.set_result(None)
        else:
            self._transport.write(b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
