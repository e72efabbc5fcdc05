"""A server with latency and faults: one process, one uvloop loop, one protocol, all bodies in memory.

`python -m bench.faulty_server --root FOLDER …` serves the files of a folder. The number at the end of the
request's path (`/00017.jpg?n=4242` counts as 4242) decides what happens to it, so that every client meets
the same faults however it orders its requests:

    n % 100 == 13    404
    n % 100 == 37    the connection is reset before any answer
    n % 200 == 61    the body is dribbled, one piece a second
    otherwise        the body at once

Every answer waits for the latency first. `GET /-/marks` tells when requests arrived; `GET /-/reset`
forgets. The port is printed on the first line; SIGTERM ends the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import socket
import struct
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import uvloop

_NUMBER: Final = re.compile(rb"(\d+)(?:\.\w+)?$")
_NOT_FOUND: Final = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nNot found"
)


@dataclass(frozen=True)
class Behaviour:
    """How the server treats requests; `dribble_s` is how long a slow body takes."""

    latency_s: float
    faults: bool
    dribble_s: int


@dataclass
class Site:
    """What the connections of one server share: the bodies, and when requests came (monotonic seconds)."""

    bodies: dict[bytes, bytes]
    behaviour: Behaviour
    arrivals: array[float] = field(default_factory=lambda: array("d"))
    in_flight: int = 0
    peak_in_flight: int = 0

    def marks(self) -> bytes:
        """Return what was seen since the last reset, as JSON."""
        return json.dumps(
            {
                "requests": len(self.arrivals),
                "arrivals_monotonic_s": self.arrivals.tolist(),
                "peak_in_flight": self.peak_in_flight,
            }
        ).encode()

    def reset(self) -> None:
        """Forget all requests."""
        self.arrivals = array("d")
        self.peak_in_flight = self.in_flight


class Connection(asyncio.Protocol):
    """One client connection: answers requests in turn, keeps alive, honours `Connection: close`."""

    def __init__(self, site: Site, loop: asyncio.AbstractEventLoop) -> None:
        self.site = site
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.received = b""
        self.busy = False
        self.closing = False
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # uvloop's transports have the methods of asyncio.Transport without being subclasses of it.
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.transport = None
        if self.timer is not None:
            self.timer.cancel()
        if self.busy:
            self.busy = False
            self.site.in_flight -= 1

    def data_received(self, data: bytes) -> None:  # noqa: D102
        self.received += data
        if not self.busy:
            self._next_request()

    def _next_request(self) -> None:
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if not end or self.transport is None:
            return
        self.received = rest
        target = head.split(b" ", 2)[1]
        self.closing = b"connection: close" in head.lower()
        if target.startswith(b"/-/"):
            self._answer_control(target)
            return
        site = self.site
        site.arrivals.append(time.monotonic())
        site.in_flight += 1
        site.peak_in_flight = max(site.peak_in_flight, site.in_flight)
        self.busy = True
        self._after(site.behaviour.latency_s, lambda: self._answer(target))

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        if delay_s > 0:
            self.timer = self.loop.call_later(delay_s, action)
        else:
            action()

    def _answer(self, target: bytes) -> None:
        assert self.transport is not None
        behaviour = self.site.behaviour
        path, _, query = target.partition(b"?")
        body = self.site.bodies.get(path)
        found = _NUMBER.search(query or path)
        number = int(found.group(1)) if found and behaviour.faults else 0
        if body is None or number % 100 == 13:
            self.transport.write(_NOT_FOUND)
            self._finish()
        elif number % 100 == 37:
            self._reset()
        elif number % 200 == 61:
            self.transport.write(_head(len(body)))
            self._dribble(body, max(1, len(body) // behaviour.dribble_s))
        else:
            self.transport.writelines((_head(len(body)), body))
            self._finish()

    def _dribble(self, rest: bytes, piece: int) -> None:
        assert self.transport is not None
        self.transport.write(rest[:piece])
        if len(rest) > piece:
            self._after(1.0, lambda: self._dribble(rest[piece:], piece))
        else:
            self._finish()

    def _reset(self) -> None:
        assert self.transport is not None
        connection: socket.socket = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _answer_control(self, target: bytes) -> None:
        assert self.transport is not None
        if target == b"/-/reset":
            self.site.reset()
        body = self.site.marks()
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def _finish(self) -> None:
        self.busy = False
        self.site.in_flight -= 1
        if self.closing and self.transport is not None:
            self.transport.close()
        elif self.received:
            self._next_request()


def _head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % length


async def run(site: Site, port: int) -> None:
    """Serve `site` on loopback until SIGTERM or SIGINT; print the port when ready."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(site, loop), "127.0.0.1", port, backlog=8192)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description="Serve a folder with latency and faults.")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--dribble-s", type=int, default=20)
    arguments = parser.parse_args()
    behaviour = Behaviour(arguments.latency_ms / 1000, arguments.faults, arguments.dribble_s)
    files = [path for path in arguments.root.iterdir() if path.is_file()]
    bodies = {f"/{path.name}".encode(): path.read_bytes() for path in files}
    uvloop.run(run(Site(bodies, behaviour), arguments.port))


if __name__ == "__main__":
    main()
