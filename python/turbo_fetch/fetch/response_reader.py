"""Answers as they come over a connection: bytes in, heads and bodies out.

One reader reads one response, and knows to the byte where it ends: what follows was not asked for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

from aiohttp import ClientPayloadError

from turbo_fetch.fetch.codings import is_picture
from turbo_fetch.fetch.response import Body, Bytes, Flow
from turbo_fetch.fetch.response_head import (
    MAX_HEAD_BYTES,
    TOO_MANY_HEADERS,
    Head,
    MalformedResponse,
    check_beginning,
    end_of_head,
    framing_of,
    parse_head,
)

MAX_INTERIM: Final = 32
"""So many responses of status 1xx may come before the final one; more than three have not been seen in earnest."""

_MAX_CHUNK_LINE_BYTES: Final = 16_384
_CHUNK_LINE_TOO_LARGE: Final = "the line of a chunk is larger than 16 KiB"
_CHUNK_LINE: Final = re.compile(rb"[ \t]*(?:0[xX])?([0-9A-Fa-f]{1,15})(?![^ \t;\r])")
_WHOLE_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t;][^\n]*+|\r)?\n")
_SNIFFED_BYTES: Final = 16
_FREE_CHUNKS: Final = 1_000
_LEAST_CHUNK_BYTES: Final = 16
"""Each chunk costs about a microsecond: beyond the free ones their mean size has a bound."""
_BEGINNING_BYTES: Final = 8
_USUAL_BEGINNING: Final = b"HTTP/1."
_SURPLUS: Final = b"?"
"""Stands for the byte that follows a body; what it is does not matter."""
_HEAD_TOO_LARGE: Final = f"headers larger than {MAX_HEAD_BYTES // 1024} KiB"
_TOO_MANY_INTERIM: Final = f"more than {MAX_INTERIM} interim responses"
_TOO_MANY_CHUNKS: Final = f"more than {_FREE_CHUNKS} chunks of a few bytes"
EXCESSES: Final = frozenset(
    {_HEAD_TOO_LARGE, TOO_MANY_HEADERS, _TOO_MANY_INTERIM, _TOO_MANY_CHUNKS, _CHUNK_LINE_TOO_LARGE}
)
"""What is said of responses beyond a bound, of which a second one is as costly, and no better."""


class _At(IntEnum):
    """What the next byte belongs to."""

    HEAD = 0
    LENGTH = 1
    UNTIL_CLOSE = 2
    CHUNK_LINE = 3
    CHUNK = 4
    CHUNK_END = 5
    TRAILER = 6
    END = 7


class ResponseReader:
    """Reads one response. `on_head` is called with its final head and its body, once; `has_surplus` is known before a
    body is told that it is whole."""

    def __init__(
        self,
        flow: Flow,
        loop: asyncio.AbstractEventLoop,
        on_head: Callable[[Head, Body], None],
    ) -> None:
        self.body: Body | None = None
        self.status = 0
        self.has_surplus = False
        """Whether bytes follow the end, which belong to no response."""
        self.is_broken = False
        """Whether the connection ended by an error: then its end is not the end of a body."""
        self._flow = flow
        self._loop = loop
        self._on_head = on_head
        self._at = _At.HEAD
        self._held = bytearray()
        self._head_bytes = 0
        self._is_checked = False
        self._interim = 0
        self._chunks = 0
        self._left_bytes = 0

    @property
    def is_done(self) -> bool:
        """Whether the response was read to its end."""
        return self._at is _At.END

    def feed(self, data: Bytes) -> None:
        """Take the next bytes of the connection; raises MalformedResponse."""
        while data and self._at is not _At.END:
            data = _TAKE[self._at](self, data)
        if data:
            self.has_surplus = True

    @property
    def left_bytes(self) -> int:
        """Bytes of a body of known length that are still to come."""
        return self._left_bytes

    def filled(self, count: int) -> None:
        """Take note of bytes that were read to where the body stays, maybe one more than belongs to it."""
        body = self.body
        assert body is not None
        taken = min(count, self._left_bytes)
        self._left_bytes -= taken
        body.filled(taken)
        if not self._left_bytes:
            self._end(_SURPLUS[: count - taken])

    def feed_eof(self) -> None:
        """Take the end of the connection; raises ClientPayloadError if the body is not whole."""
        body = self.body
        if body is None or self._at is _At.END:
            return
        framing = body.framing
        is_whole = (
            (self._at is _At.UNTIL_CLOSE and not self.is_broken)
            or self._at is _At.TRAILER
            or (self._at is _At.LENGTH and (framing.length or 0) - self._left_bytes in framing.other_lengths)
        )
        if not is_whole and self._at is _At.LENGTH and framing.codings and not self.is_broken:
            body.is_cut = is_whole = True
        if not is_whole:
            raise ClientPayloadError("the connection ended before the body")
        self._end(b"")

    def _end(self, rest: Bytes) -> Bytes:
        self._at = _At.END
        self.has_surplus = bool(rest)
        if self.body is not None:
            # The reader lasts as long as its connection is idle; the body need not.
            body, self.body = self.body, None
            body.feed_eof()
        return rest

    def _take_head(self, data: bytes) -> Bytes:
        block: bytes | bytearray = data
        searched = 0
        if self._held:
            searched = max(0, len(self._held) - 3)
            self._held += data
            block = self._held
        elif not data.startswith(_USUAL_BEGINNING):
            block = data = self._skip_empty_lines(data)
        if not self._is_checked and len(block) >= _BEGINNING_BYTES:
            check_beginning(block)
            self._is_checked = True
        found = end_of_head(block, searched)
        if self._head_bytes + (len(block) if found is None else found[1]) > MAX_HEAD_BYTES:
            raise MalformedResponse(message=_HEAD_TOO_LARGE)
        if found is None:
            if block is data:
                self._held += data
            return b""
        ends, body_begins = found
        head = parse_head(bytes(block[:ends]))
        rest = memoryview(data)[body_begins:] if block is data else bytes(block[body_begins:])
        self._head_bytes += body_begins
        self._held.clear()
        self._is_checked = False
        if 100 <= head.status < 200 and head.status != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise MalformedResponse(message=_TOO_MANY_INTERIM)
            return bytes(rest)
        return self._begin_body(head, rest)

    def _skip_empty_lines(self, data: bytes) -> bytes:
        """Leave out line ends before a status line, as everyone does."""
        stripped = data.lstrip(b"\r\n")
        self._head_bytes += len(data) - len(stripped)
        return stripped

    def _begin_body(self, head: Head, rest: Bytes) -> Bytes:
        framing = framing_of(head)
        self.status = head.status
        self.body = Body(framing, self._flow, self._loop)
        self._on_head(head, self.body)
        if framing.is_chunked:
            self._at = _At.CHUNK_LINE
        elif framing.length is None:
            self._at = _At.UNTIL_CLOSE
        elif framing.length == 0:
            return self._end(rest)
        else:
            self._at = _At.LENGTH
            self._left_bytes = framing.length
            # Of the bytes that came with the head, the body is a view: all of it is copied once, when it is whole.
            return rest
        return bytes(rest)

    def _take_counted(self, data: Bytes) -> Bytes:
        assert self.body is not None
        count = len(data)
        if count < self._left_bytes:
            self._left_bytes -= count
            self.body.feed_data(data)
            return b""
        rest = data[self._left_bytes :]
        self.body.feed_data(data[: self._left_bytes] if rest else data)
        self._left_bytes = 0
        if self._at is _At.LENGTH:
            return self._end(rest)
        self._at = _At.CHUNK_END
        return rest

    def _take_all(self, data: bytes) -> bytes:
        assert self.body is not None
        self.body.feed_data(data)
        return b""

    def _take_chunk_line(self, data: bytes) -> bytes:
        body = self.body
        assert body is not None
        if not self._chunks and is_picture(bytes(self._held[:_SNIFFED_BYTES]) + data[:_SNIFFED_BYTES]):
            return self._take_unchunked(data)
        if not self._held:
            data = self._take_whole_chunks(data, body)
        line, rest = self._line(data, _MAX_CHUNK_LINE_BYTES, _CHUNK_LINE_TOO_LARGE)
        if line is None:
            return b""
        match = _CHUNK_LINE.match(line)
        if match is None:
            raise MalformedResponse(message="the size of a chunk is not a hexadecimal number")
        self._count_chunks(1, body)
        self._left_bytes = int(match[1], 16)
        self._at = _At.CHUNK if self._left_bytes else _At.TRAILER
        return rest

    def _take_whole_chunks(self, data: bytes, body: Body) -> bytes:
        """Take all chunks that are whole in the bytes at hand, for there may be thousands of a few bytes."""
        pieces: list[bytes] = []
        at = 0
        while len(pieces) < _FREE_CHUNKS and (match := _WHOLE_CHUNK_LINE.match(data, at)) is not None:
            begins = match.end()
            ends = begins + int(match[1], 16)
            if data.startswith(b"\r\n", ends):
                following = ends + 2
            elif data.startswith(b"\n", ends):
                following = ends + 1
            else:
                break
            if begins == ends:
                break
            pieces.append(data[begins:ends])
            at = following
        if not pieces:
            return data
        body.feed_data(b"".join(pieces))
        self._count_chunks(len(pieces), body)
        return data[at:]

    def _count_chunks(self, count: int, body: Body) -> None:
        self._chunks += count
        if self._chunks > _FREE_CHUNKS + body.total_bytes // _LEAST_CHUNK_BYTES:
            raise MalformedResponse(message=_TOO_MANY_CHUNKS)

    def _take_unchunked(self, data: bytes) -> bytes:
        """Take an image that was announced in chunks, but is not: browsers do so in HTTP/1.0."""
        self._at = _At.UNTIL_CLOSE
        data = bytes(self._held) + data
        self._held.clear()
        return data

    def _take_chunk_end(self, data: bytes) -> bytes:
        line, rest = self._line(data, 2, "a chunk is longer than its size says")
        if line is None:
            return b""
        if line.strip(b"\r"):
            raise MalformedResponse(message="a chunk is longer than its size says")
        self._at = _At.CHUNK_LINE
        return rest

    def _take_trailer(self, data: bytes) -> Bytes:
        searched = max(0, len(self._held) - 3)
        self._held += data
        for empty in (b"\r\n", b"\n"):
            if self._held.startswith(empty):
                return self._end(bytes(self._held[len(empty) :]))
        found = end_of_head(self._held, searched)
        if self._head_bytes + (len(self._held) if found is None else found[1]) > MAX_HEAD_BYTES:
            raise MalformedResponse(message=_HEAD_TOO_LARGE)
        return b"" if found is None else self._end(bytes(self._held[found[1] :]))

    def _line(self, data: bytes, limit_bytes: int, too_long: str) -> tuple[bytes | None, bytes]:
        """Return the next line without its LF and what follows it; or None, and keep what is there of it."""
        ends = data.find(b"\n")
        length = len(self._held) + (len(data) if ends < 0 else ends + 1)
        if length > limit_bytes:
            raise MalformedResponse(message=too_long)
        self._held += data if ends < 0 else data[:ends]
        if ends < 0:
            return None, b""
        line = bytes(self._held)
        self._held.clear()
        return line, data[ends + 1 :]


_TAKE: Final[tuple[Callable[[ResponseReader, Any], Bytes], ...]] = (
    ResponseReader._take_head,
    ResponseReader._take_counted,
    ResponseReader._take_all,
    ResponseReader._take_chunk_line,
    ResponseReader._take_counted,
    ResponseReader._take_chunk_end,
    ResponseReader._take_trailer,
)
"""What is done with the next bytes, in the order of _At; each returns what it leaves."""
