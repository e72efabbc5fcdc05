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

from turbo_fetch.fetch.library_internals import (
    BaseTimerContext,
    Connection,
    ConnectionKey,
    RawResponseMessage,
    ResponseHandler,
)
from turbo_fetch.fetch.response_head import Head, MalformedResponse
from turbo_fetch.fetch.response_reader import Body, ResponseReader

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
    """A connection whose responses are read by :class:`ResponseReader`, one for each request.

    Bytes that come before a request or after the end of its response close it. Extends methods of aiohttp that it
    does not document; tests watch that they are still called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.on_unsolicited: Callable[[], None] | None = None
        """Told of such bytes while the connection is idle."""
        self._response: ResponseReader | None = None
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
    def is_quiet(self) -> bool:
        """Whether nothing waits to be read, not even the end of the connection."""
        transport = self.transport
        socket = None if transport is None else transport.get_extra_info("socket")
        if socket is None or socket.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    def set_response_params(
        self,
        *,
        timer: BaseTimerContext | None = None,
        read_bufsize: int = 2**16,
        **unused: Any,
    ) -> None:
        """Begin to wait for a response; what aiohttp asks of its own parser is not for ours."""
        self._response = ResponseReader(self, self._loop, read_bufsize, timer, self._begun)
        self._parser = self._response  # type: ignore[assignment]  # it has what aiohttp asks of a parser

    def data_received(self, data: bytes) -> None:
        """Take bytes from the connection; an empty call, by which aiohttp wakes its parser, is for nobody."""
        response = self._response
        if not data:
            return
        if response is None or response.is_done:
            self._unsolicited()
            return
        try:
            response.feed(data)
        except MalformedResponse as problem:
            self._give_up(response, problem)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take the end of the connection."""
        if exc is not None and self._response is not None:
            self._response.is_broken = True
        super().connection_lost(exc)

    def _begun(self, head: Head, body: Body) -> None:
        """Hand a response over to whoever waits for it."""
        should_close = head.should_close or body.framing.is_odd
        if should_close:
            self.force_close()
        self._payload = body
        message = RawResponseMessage(
            head.version,
            head.status,
            head.reason,
            head.headers,
            (),
            should_close,
            None,
            False,
            body.framing.is_chunked,
        )
        self.feed_data((message, body), 0)

    def _unsolicited(self) -> None:
        self._got_unsolicited = True
        self.force_close()
        if self.transport is not None:
            self.transport.close()
        if self.on_unsolicited is not None:
            self.on_unsolicited()

    def _give_up(self, response: ResponseReader, problem: MalformedResponse) -> None:
        """End a response that cannot be read further."""
        if self.transport is not None:
            self.transport.close()
        if response.body is None:
            self.set_exception(problem)
        else:
            self.force_close()
            failure = ClientPayloadError(problem.message)
            failure.__cause__ = problem
            response.body.set_exception(failure)


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
