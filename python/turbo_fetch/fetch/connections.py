"""Connections, kept for reuse in a bounded number, and only while no unsolicited bytes arrive on them.

An idle TLS connection holds about 270 KB, most of it the loop's read buffer. A list of many hosts would leave
one behind per row, and aiohttp forgets idle connections by age only.

Bytes after a response would be taken for the response to the next request of their connection. One on which they wait
is never used again, but they may also come late, when the next request is on its way. So the connections of a host
are on probation before they are used again, until enough of them have stayed silent; and a host whose did not is
given a new connection for each request from then on. Servers err by status (a page after a 304, say), so silence
counts for its status alone.
"""

from __future__ import annotations

import asyncio
import select
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final, cast

import aiohttp
from aiohttp import ClientPayloadError

from turbo_fetch.fetch.library_internals import Connection, ConnectionKey, ResponseHandler
from turbo_fetch.fetch.response import Body, Response
from turbo_fetch.fetch.response_head import Head, MalformedResponse
from turbo_fetch.fetch.response_reader import ResponseReader

PROBATION_S: Final = 0.25
"""How long a connection is on probation before it counts as silent."""
PROOFS: Final = 16
"""After so many silent connections those of a host need no probation any more."""
MAX_HOSTS: Final = 65_536


class ReuseHistory:
    """Remembers the hosts of an event loop; of too many the longest unseen are forgotten."""

    def __init__(self, max_hosts: int = MAX_HOSTS) -> None:
        self._max_hosts = max_hosts
        self._silent: OrderedDict[tuple[Hashable, int], int] = OrderedDict()
        self._on_probation: dict[tuple[Hashable, int], int] = {}
        self._single_use: OrderedDict[Hashable, None] = OrderedDict()

    def is_single_use(self, host: Hashable) -> bool:
        """Whether a host has ever sent unsolicited bytes."""
        return host in self._single_use

    def use_once(self, host: Hashable) -> None:
        """Remember that a host has sent unsolicited bytes: its connections are used once."""
        self._single_use[host] = None
        self._single_use.move_to_end(host)
        if len(self._single_use) > self._max_hosts:
            self._single_use.popitem(last=False)

    def is_trusted(self, host: Hashable, status: int) -> bool:
        """Whether connections of a host may be used again at once after a response of this status."""
        return self._silent.get((host, status), 0) >= PROOFS

    def begin_probation(self, host: Hashable, status: int) -> bool:
        """Count a connection on probation; false if enough of them are, so that it may as well be closed."""
        on_probation = self._on_probation.get((host, status), 0)
        if on_probation >= PROOFS:
            return False
        self._on_probation[host, status] = on_probation + 1
        return True

    def end_probation(self, host: Hashable, status: int, *, was_silent: bool) -> None:
        """Count a connection whose probation is over, or that was closed meanwhile."""
        key = (host, status)
        self._on_probation[key] -= 1
        if not self._on_probation[key]:
            del self._on_probation[key]
        if was_silent:
            self._silent[key] = self._silent.get(key, 0) + 1
            self._silent.move_to_end(key)
            if len(self._silent) > self._max_hosts:
                self._silent.popitem(last=False)


class ResponseProtocol(ResponseHandler):
    """A connection on which requests are sent one after the other, each read by a :class:`ResponseReader`.

    Bytes that come before a request or after the end of its response close it. What a proxy answers to CONNECT is left
    to aiohttp. Extends methods of aiohttp that it does not document; tests watch that they are still called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.on_unsolicited: Callable[[], None] | None = None
        """Told of such bytes while the connection is idle."""
        self._response: ResponseReader | None = None
        self._connection: Connection
        self._awaited: asyncio.Future[Response] | None = None
        self._poll: select.poll | None = None
        self._got_unsolicited = False

    @property
    def status(self) -> int:
        """Status of the last response."""
        return 0 if self._response is None else self._response.status

    @property
    def has_unsolicited(self) -> bool:
        """Whether unsolicited bytes came."""
        return self._got_unsolicited or (self._response is not None and self._response.has_surplus)

    @property
    def should_close(self) -> bool:
        """Whether the connection may not be used again."""
        return self._should_close or (self._response is not None and not self._response.is_done)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits to be read, not even the end of the connection."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        if self._poll is None:
            socket = transport.get_extra_info("socket")
            if socket is None or socket.fileno() < 0:
                return False
            self._poll = select.poll()
            self._poll.register(socket.fileno(), select.POLLIN)
        return not self._poll.poll(0)

    def ask(self, connection: Connection, request: bytes) -> asyncio.Future[Response]:
        """Send a request over this protocol's connection, which it releases when the response is whole.

        The future raises what ends the connection before there is a response; whoever gives up waiting closes it.
        """
        transport = self.transport
        if transport is None:
            raise aiohttp.ServerDisconnectedError
        self._connection = connection
        self._awaited = waiter = self._loop.create_future()
        self._response = ResponseReader(self, self._loop, self._begun)
        transport.write(request)
        return waiter

    def data_received(self, data: bytes) -> None:
        """Take bytes from the connection."""
        response = self._response
        if response is None:
            if self._parser is None:
                self._unsolicited()
            else:
                super().data_received(data)
        elif response.is_done:
            self._unsolicited()
        else:
            try:
                response.feed(data)
            except MalformedResponse as problem:
                self._give_up(response, problem)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take the end of the connection."""
        response = self._response
        if response is not None and not response.is_done:
            response.is_broken = exc is not None
            try:
                response.feed_eof()
            except ClientPayloadError as problem:
                problem.__cause__ = exc
                self._fail_body(response, problem)
            if isinstance(exc, OSError):
                self._fail(aiohttp.ClientOSError(*exc.args))
            else:
                self._fail(aiohttp.ServerDisconnectedError() if exc is None else exc)
        super().connection_lost(exc)

    def pause_reading(self) -> None:
        """Take no more bytes from the connection."""
        self._pause_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Take bytes again."""
        self._resume_transport_reading()

    def fill(self, memory: memoryview) -> None:
        """Read the rest of the body into `memory`; see Flow."""
        if self._response is not None:
            self._read_by(_Filling(self, self._response, memory))

    def _read_by(self, protocol: asyncio.BaseProtocol) -> None:
        """Have bytes go to `protocol` from now on."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            # uvloop asks how to read only when it begins to.
            self.pause_reading()
            transport.set_protocol(protocol)
            self.resume_reading()

    def _begun(self, head: Head, body: Body) -> None:
        """Hand a response over to whoever waits for it."""
        if head.should_close or body.framing.is_odd:
            self.force_close()
        # Both do nothing where the other was called before.
        body.on_end = self._connection.release
        waiter, self._awaited = self._awaited, None
        if waiter is not None and not waiter.done():
            waiter.set_result(Response(head, body, self._connection.close))

    def _fail(self, error: BaseException) -> None:
        waiter, self._awaited = self._awaited, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def _fail_body(self, response: ResponseReader, error: BaseException) -> None:
        if response.body is not None:
            response.body.set_exception(error)

    def _unsolicited(self) -> None:
        self._got_unsolicited = True
        self.force_close()
        if self.transport is not None:
            self.transport.close()
        if self.on_unsolicited is not None:
            self.on_unsolicited()

    def _give_up(self, response: ResponseReader, problem: MalformedResponse) -> None:
        """End a response that cannot be read further."""
        self.force_close()
        if self.transport is not None:
            self.transport.close()
        failure = ClientPayloadError(problem.message)
        failure.__cause__ = problem
        self._fail_body(response, failure)
        self._fail(problem)


class _Filling(asyncio.BufferedProtocol):
    """Reads the rest of a body into memory, and then leaves the connection to its own protocol again."""

    __slots__ = ("_at", "_connection", "_memory", "_response")

    def __init__(self, connection: ResponseProtocol, response: ResponseReader, memory: memoryview) -> None:
        self._connection = connection
        self._response = response
        self._memory = memory
        self._at = 0

    def get_buffer(self, _size: int) -> memoryview:
        """Return where the next bytes belong."""
        return self._memory[self._at :]

    def buffer_updated(self, count: int) -> None:
        """Take note of bytes that lie there."""
        self._at += count
        if count >= self._response.left_bytes:
            # Before its end is told, for then the connection may be used again at once.
            self._connection._read_by(self._connection)
        self._response.filled(count)

    def eof_received(self) -> None:
        """Take the end of what the other side sends."""
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """Take note that much waits to be sent."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Take note that little waits to be sent."""
        self._connection.resume_writing()


class BoundedConnector(aiohttp.TCPConnector):
    """Keeps at most `max_connections` open, idle and busy ones together; the longest idle are closed first.

    Busy ones are never closed, so the bound holds as long as no more are busy. Idle ones of a host whose habits
    are not known yet are on probation before they are used again. Extends methods that aiohttp does not document, where
    connections become idle and busy; tests watch that they still do.
    """

    def __init__(self, *, max_connections: int, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._factory = partial(ResponseProtocol, self._loop)  # type: ignore[assignment]  # of the class of the base
        self._max_connections = max_connections
        self._history = ReuseHistory()
        self._idle: dict[ResponseHandler, None] = {}
        self._probations: dict[ResponseProtocol, asyncio.TimerHandle] = {}

    async def _get(self, key: ConnectionKey, traces: list[Any]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = cast(ResponseProtocol, connection.protocol)
            self._idle.pop(protocol, None)
            if protocol.is_quiet:
                return connection
            # What waits there is the end of the connection, or bytes that are no response to the next request.
            connection.close()
        return None

    async def open(self, request: aiohttp.ClientRequest, key: ConnectionKey, timeout_s: float) -> Connection:
        """Return a connection on which `request`, whose key is `key`, can be sent, an idle one if there is any."""
        idle = await self._get(key, [])
        if idle is not None:
            return idle
        timeout = aiohttp.ClientTimeout(total=None, connect=timeout_s, ceil_threshold=float("inf"))
        try:
            return await self.connect(request, [], timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error

    def close_idle(self) -> None:
        """Close the connections that nobody uses now."""
        for protocol in self._idle:
            protocol.close()
        self._idle.clear()

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        ours = cast(ResponseProtocol, protocol)
        if ours.has_unsolicited:
            self._history.use_once(key)
        if not (should_close or ours.should_close or self.closed):
            if self._history.is_single_use(key):
                should_close = True
            elif not self._history.is_trusted(key, ours.status):
                if self._history.begin_probation(key, ours.status):
                    self._release_acquired(key, ours)
                    self._probations[ours] = self._loop.call_later(
                        PROBATION_S, self._probation_over, key, ours
                    )
                    self._keep(key, ours)
                    return
                should_close = True
        super()._release(key, ours, should_close=should_close)
        self._keep(key, ours)

    def _probation_over(self, key: ConnectionKey, protocol: ResponseProtocol) -> None:
        """Put a connection where it can be used again."""
        del self._probations[protocol]
        was_silent = protocol.is_connected() and protocol.is_quiet
        self._history.end_probation(key, protocol.status, was_silent=was_silent)
        super()._release(key, protocol, should_close=not was_silent or self._history.is_single_use(key))
        if not protocol.is_connected():
            self._idle.pop(protocol, None)

    def _keep(self, key: ConnectionKey, protocol: ResponseProtocol) -> None:
        """Count an idle connection, and close the longest idle ones of too many."""
        if not protocol.is_connected():
            return
        if protocol.on_unsolicited is None:
            protocol.on_unsolicited = partial(self._history.use_once, key)
        self._idle[protocol] = None
        while self._idle and len(self._idle) + len(self._acquired) > self._max_connections:
            longest_idle = next(iter(self._idle))
            del self._idle[longest_idle]
            longest_idle.close()

    def _close(self, **options: Any) -> list[Any]:
        waiters = []
        for protocol, timer in self._probations.items():
            timer.cancel()
            protocol.close()
            waiters.append(protocol.closed)
        self._probations.clear()
        return [*(waiter for waiter in waiters if waiter is not None), *super()._close(**options)]
