"""The messages of an Arrow IPC stream, looked at before Arrow takes memory for what they claim to hold.

A message is its metadata, a FlatBuffer, and a body of buffers; a compressed buffer begins with the length that it
expands to. See https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format and Message.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import IO, Final

from turbo_fetch.plan.expansion import refuse_bomb

_CONTINUES: Final = b"\xff\xff\xff\xff"
_MAX_METADATA_BYTES: Final = 64 << 20
_DICTIONARY, _ROWS = 2, 3
_LENGTH: Final = struct.Struct("<i")
_LONG: Final = struct.Struct("<q")


class Messages:
    """A stream of messages, read from a file from where it stands; InputError for a bomb, ValueError for garbage."""

    closed = False

    def __init__(self, file: IO[bytes], url: str, file_bytes: int | None) -> None:
        self._pieces = filter(None, self._messages(file, url, file_bytes))
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes | memoryview:
        """Return up to so many bytes, none at the end; a whole body as it is."""
        found: list[memoryview] = []
        while size:
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
                if not self._rest:
                    break
            found.append(self._rest[:size])
            self._rest = self._rest[len(found[-1]) :]
            size -= len(found[-1])
        return found[0] if len(found) == 1 else b"".join(found)

    def _messages(self, file: IO[bytes], url: str, file_bytes: int | None) -> Iterator[bytes]:
        while True:
            head, metadata = _next(file)
            yield head + metadata
            if not metadata:
                return
            length = _Table.of_message(metadata).long(3)
            if file_bytes is not None:
                refuse_bomb(url, "a message", file_bytes, length)
            body = file.read(length)
            _check(metadata, lambda at, body=body: body[at : at + 8], url)  # type: ignore[misc]
            yield body


def check_messages(file: IO[bytes], url: str) -> None:
    """Look at all messages of a file from where it stands, and at little more; raises as `Messages`."""
    while True:
        _, metadata = _next(file)
        if not metadata:
            return
        start = file.tell()

        def prefix_at(at: int, start: int = start) -> bytes:
            file.seek(start + at)
            return file.read(8)

        _check(metadata, prefix_at, url)
        file.seek(start + _Table.of_message(metadata).long(3))


def _next(file: IO[bytes]) -> tuple[bytes, bytes]:
    """Return what stands before the metadata of the next message, and these, empty at the end."""
    head = file.read(4)
    if head == _CONTINUES:
        head += file.read(4)
    if len(head) not in (4, 8):
        return head, b""
    (length,) = _LENGTH.unpack(head[-4:])
    if not 0 <= length <= _MAX_METADATA_BYTES:
        raise ValueError("a message of the Arrow stream is damaged")
    return head, file.read(length)


def _check(metadata: bytes, prefix_at: Callable[[int], bytes], url: str) -> None:
    """Raise InputError if the compressed buffers of a message expand to far too much."""
    message = _Table.of_message(metadata)
    kind, header = message.byte(1), message.table(2)
    if kind not in (_DICTIONARY, _ROWS) or header is None:
        return
    rows = header.table(1) if kind == _DICTIONARY else header
    if rows is None or rows.table(3) is None:
        return
    stored = expanded = 0
    for at, length in rows.pairs(2):
        if length > 8:
            stored += length
            expanded += max(0, *_LONG.unpack(prefix_at(at).ljust(8, b"\0")), length)
    refuse_bomb(url, "a batch of rows", stored, expanded)


class _Table:
    """A table of a FlatBuffer."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content = content
        self._at = at

    @classmethod
    def of_message(cls, metadata: bytes) -> _Table:
        return cls(metadata, _unpacked("<I", metadata, 0))

    def _place(self, field: int) -> int | None:
        table = self._at - _unpacked("<i", self._content, self._at)
        if 4 + 2 * field >= _unpacked("<H", self._content, table):
            return None
        return (
            self._at + offset if (offset := _unpacked("<H", self._content, table + 4 + 2 * field)) else None
        )

    def byte(self, field: int) -> int:
        place = self._place(field)
        return 0 if place is None else _unpacked("<B", self._content, place)

    def long(self, field: int) -> int:
        place = self._place(field)
        return 0 if place is None else max(0, _unpacked("<q", self._content, place))

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        if place is None:
            return None
        return _Table(self._content, place + _unpacked("<I", self._content, place))

    def pairs(self, field: int) -> Iterator[tuple[int, int]]:
        """Yield the members of a vector of structs of two longs."""
        place = self._place(field)
        if place is None:
            return
        start = place + _unpacked("<I", self._content, place)
        for number in range(_unpacked("<I", self._content, start)):
            at = start + 4 + 16 * number
            yield _unpacked("<q", self._content, at), _unpacked("<q", self._content, at + 8)


def _unpacked(kind: str, content: bytes, at: int) -> int:
    try:
        (value,) = struct.unpack_from(kind, content, at)
    except struct.error:
        raise ValueError("a message of the Arrow stream is damaged") from None
    return int(value)
