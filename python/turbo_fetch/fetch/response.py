"""A response as a connection hands it over: its head, and its body while it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from multidict import CIMultiDictProxy

from turbo_fetch.fetch.response_head import Framing, Head

FILLED_BYTES: Final = 32_768
"""So much of a body of known length that is still to come is read to where the body stays."""

READ_BUFFER_BYTES: Final = 131_072
"""A connection is paused when more than this waits to be read; it is held besides the budget."""


Bytes = bytes | memoryview


class Flow(Protocol):
    """What a body that nobody reads is held back by."""

    def pause_reading(self) -> None:
        """Take no more bytes from the connection."""
        ...

    def resume_reading(self) -> None:
        """Take bytes again."""
        ...

    def fill(self, memory: memoryview) -> None:
        """Read the rest of a body of known length into `memory`, which has one byte more, to see what follows it."""
        ...


class Body:
    """The body of a response, still encoded, and how it is framed; for one reader, in one event loop."""

    __slots__ = (
        "_chunks",
        "_error",
        "_flow",
        "_is_ended",
        "_is_paused",
        "_is_read_whole",
        "_loop",
        "_memory",
        "_waiter",
        "_waiting_bytes",
        "framing",
        "is_cut",
        "on_data",
        "on_end",
        "total_bytes",
    )

    def __init__(self, framing: Framing, flow: Flow, loop: asyncio.AbstractEventLoop) -> None:
        self.framing = framing
        self.is_cut = False
        """Whether a packed body is shorter than its length: some servers give that of what is packed."""
        self.total_bytes = 0
        """Bytes that have arrived."""
        self.on_data: Callable[[], None] | None = None
        """Called when bytes arrive."""
        self.on_end: Callable[[], None] | None = None
        """Called when the body is whole."""
        self._flow = flow
        self._loop = loop
        self._chunks: list[Bytes] = []
        self._waiting_bytes = 0
        self._is_read_whole = False
        self._is_paused = False
        self._is_ended = False
        self._memory: memoryview | None = None
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def feed_data(self, data: Bytes) -> None:
        """Take the next bytes."""
        self._chunks.append(data)
        self.total_bytes += len(data)
        self._waiting_bytes += len(data)
        if self.on_data is not None:
            self.on_data()
        if self._is_read_whole:
            return
        if self._waiting_bytes > READ_BUFFER_BYTES and not self._is_paused:
            self._is_paused = True
            self._flow.pause_reading()
        self._wake()

    def filled(self, count: int) -> None:
        """Take note of bytes that were read to where the body stays."""
        self.total_bytes += count
        self._waiting_bytes += count
        if self.on_data is not None:
            self.on_data()

    def feed_eof(self) -> None:
        """Take note that the body is whole."""
        self._is_ended = True
        self._wake()
        on_end, self.on_end, self.on_data = self.on_end, None, None
        if on_end is not None:
            on_end()

    def set_exception(self, error: BaseException) -> None:
        """Take note that the rest of the body will not come."""
        self._error = error
        self._wake()

    def at_eof(self) -> bool:
        """Whether all of the body has been read."""
        return self._is_ended and not self._chunks

    async def readany(self) -> bytes:
        """Return what has arrived since the last call, as soon as there is something; nothing at the end."""
        while not self._chunks and not self._is_ended and self._error is None:
            await self._change()
        if self._error is not None:
            raise self._error
        return self.read_nowait()

    async def read(self) -> Bytes:
        """Return all of the body that has not been read; its connection is not paused, nor its reader woken, before."""
        self._is_read_whole = True
        self._resume()
        left_bytes = (self.framing.length or 0) - self.total_bytes
        if left_bytes >= FILLED_BYTES and not self._is_ended and self._error is None:
            self._fill(left_bytes)
        while not self._is_ended and self._error is None:
            await self._change()
        if self._error is not None:
            raise self._error
        if self._memory is None:
            return self.read_nowait()
        memory, self._memory = self._memory[: self._waiting_bytes].toreadonly(), None
        self._waiting_bytes = 0
        return memory

    def read_nowait(self) -> bytes:
        """Return what has arrived since the last call."""
        chunks, self._chunks, self._waiting_bytes = self._chunks, [], 0
        self._resume()
        first = chunks[0] if len(chunks) == 1 else None
        return first if isinstance(first, bytes) else b"".join(chunks)

    def _fill(self, left_bytes: int) -> None:
        """Have the rest read behind what is there already, so that no body is copied when it is whole."""
        memory = memoryview(bytearray(self._waiting_bytes + left_bytes + 1))
        at = 0
        for chunk in self._chunks:
            memory[at : at + len(chunk)] = chunk
            at += len(chunk)
        self._chunks = []
        self._memory = memory
        self._flow.fill(memory[at:])

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._flow.resume_reading()

    async def _change(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Response:
    """A final response. Its connection is free again once the body is whole; `close` ends it before."""

    __slots__ = ("_close", "body", "headers", "reason", "status")

    def __init__(self, head: Head, body: Body, close: Callable[[], None]) -> None:
        self.status = head.status
        self.reason = head.reason
        self.headers: CIMultiDictProxy[str] = head.headers
        self.body = body
        self._close = close

    def close(self) -> None:
        """End the connection, unless the body is whole."""
        self._close()
