"""Connections, kept for reuse in a bounded number, and only while nothing unasked arrives on them.

An idle TLS connection holds about 270 KB, most of it the loop's read buffer. A list of many hosts would leave
one behind per row, and aiohttp forgets idle connections by age only.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.helpers import BaseTimerContext, set_exception
from aiohttp.http import RawResponseMessage

from turbo_fetch.fetch.answer_head import Head, MalformedAnswer
from turbo_fetch.fetch.answers import AnswerReader, Body
from turbo_fetch.fetch.reuse import QUIET_S, ReuseRecord


class AnswerProtocol(ResponseHandler):
    """A connection whose answers are read by :class:`AnswerReader`, one for each request.

    Bytes that come before a request or after the end of its answer close it. Extends methods of aiohttp that it
    does not document; tests watch that they are still called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.on_unasked: Callable[[], None] | None = None
        """Told of such bytes while the connection is idle."""
        self._answer: AnswerReader | None = None
        self._got_unasked = False

    @property
    def status(self) -> int:
        """Status of the last answer."""
        return 0 if self._answer is None else self._answer.status

    @property
    def has_unasked(self) -> bool:
        """Whether bytes came that nobody asked for."""
        return self._got_unasked or (self._answer is not None and self._answer.has_surplus)

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
        """Begin to wait for an answer; what aiohttp asks of its own parser is not for ours."""
        self._answer = AnswerReader(self, self._loop, read_bufsize, timer, self._begun)
        self._parser = self._answer  # type: ignore[assignment]  # it has what aiohttp asks of a parser

    def data_received(self, data: bytes) -> None:
        """Take bytes from the connection; an empty call, by which aiohttp wakes its parser, is for nobody."""
        answer = self._answer
        if not data:
            return
        if answer is None or answer.is_done:
            self._unasked()
            return
        try:
            answer.feed(data)
        except MalformedAnswer as problem:
            self._give_up(answer, problem)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take the end of the connection."""
        if exc is not None and self._answer is not None:
            self._answer.is_broken = True
        super().connection_lost(exc)

    def _begun(self, head: Head, body: Body) -> None:
        """Hand an answer over to whoever waits for it."""
        if head.should_close or body.framing.is_odd:
            self._should_close = True
        self._payload = body
        message = RawResponseMessage(
            head.version,
            head.status,
            head.reason,
            head.headers,
            (),
            self._should_close,
            None,
            False,
            body.framing.is_chunked,
        )
        self.feed_data((message, body), 0)

    def _unasked(self) -> None:
        self._should_close = self._got_unasked = True
        if self.transport is not None:
            self.transport.close()
        if self.on_unasked is not None:
            self.on_unasked()

    def _give_up(self, answer: AnswerReader, problem: MalformedAnswer) -> None:
        """End an answer that cannot be read further."""
        if self.transport is not None:
            self.transport.close()
        if answer.body is None:
            self.set_exception(problem)
        else:
            self._should_close = True
            set_exception(answer.body, ClientPayloadError(problem.message), problem)


class BoundedConnector(aiohttp.TCPConnector):
    """Keeps at most `max_connections` open, idle and busy ones together; the longest idle are closed first.

    Busy ones are never closed, so the bound holds as long as no more are busy. Idle ones of a host whose habits
    are not known yet rest before they are used again. Extends methods that aiohttp does not document, where
    connections become idle and busy; tests watch that they still do.
    """

    def __init__(self, *, max_connections: int, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._factory = partial(AnswerProtocol, self._loop)  # type: ignore[assignment]  # of the class of the base
        self._max_connections = max_connections
        self._record = ReuseRecord()
        self._idle: dict[ResponseHandler, None] = {}
        self._rests: dict[AnswerProtocol, asyncio.TimerHandle] = {}

    async def _get(self, key: ConnectionKey, traces: list[Any]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = cast(AnswerProtocol, connection.protocol)
            self._idle.pop(protocol, None)
            if protocol.is_quiet:
                return connection
            # What waits there is the end of the connection, or bytes that are no answer to the next request.
            connection.close()
        return None

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        ours = cast(AnswerProtocol, protocol)
        if ours.has_unasked:
            self._record.bar(key)
        if not (should_close or ours.should_close or self._closed):
            if self._record.is_barred(key):
                should_close = True
            elif not self._record.is_trusted(key, ours.status):
                if self._record.begin_rest(key, ours.status):
                    self._release_acquired(key, ours)
                    self._rests[ours] = self._loop.call_later(QUIET_S, self._rested, key, ours)
                    self._keep(key, ours)
                    return
                should_close = True
        super()._release(key, ours, should_close=should_close)
        self._keep(key, ours)

    def _rested(self, key: ConnectionKey, protocol: AnswerProtocol) -> None:
        """Put a connection where it can be used again."""
        del self._rests[protocol]
        was_silent = protocol.is_connected() and protocol.is_quiet
        self._record.end_rest(key, protocol.status, was_silent=was_silent)
        super()._release(key, protocol, should_close=not was_silent or self._record.is_barred(key))
        if not protocol.is_connected():
            self._idle.pop(protocol, None)

    def _keep(self, key: ConnectionKey, protocol: AnswerProtocol) -> None:
        """Count an idle connection, and close the longest idle ones of too many."""
        if not protocol.is_connected():
            return
        if protocol.on_unasked is None:
            protocol.on_unasked = partial(self._record.bar, key)
        self._idle[protocol] = None
        while self._idle and len(self._idle) + len(self._acquired) > self._max_connections:
            longest_idle = next(iter(self._idle))
            del self._idle[longest_idle]
            longest_idle.close()

    def _close(self, **options: Any) -> list[Any]:
        waiters = []
        for protocol, timer in self._rests.items():
            timer.cancel()
            protocol.close()
            waiters.append(protocol.closed)
        self._rests.clear()
        return [*(waiter for waiter in waiters if waiter is not None), *super()._close(**options)]
