"""Frames of an append-only file: each proves that it is whole, where it belongs, and which file it is of.

A file is a 16-byte preamble (magic, random nonce) and frames. A frame is a 16-byte head (payload length,
CRC-32C, kind) and the payload, padded with zeros to a multiple of 16 so that Arrow buffers stay aligned. The
CRC covers nonce, offset, length and kind as well, so that neither the remains of an older write nor a
image that contains the bytes of a frame can pass for one.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
from crc32c import crc32c

Piece = bytes | memoryview
"""A part of what is written; the length of a view is that in bytes."""

PREAMBLE: Final = struct.Struct("<8s8s")
MAGIC: Final = b"TFSPOOL2"
ALIGNMENT: Final = 16
MOST_PIECES: Final = 1024
"""That one system call takes on Linux and macOS."""
CALL_BYTES: Final = 256 << 10
"""More at once makes Linux take huge pages for its cache, and on a virtual machine those are the ones that it has never
used: the host has to find memory for them first, which took five times as long as the copy."""

_HEAD: Final = struct.Struct("<IIB7x")
_SEED: Final = struct.Struct("<8sQIB")


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame: its kind, and where its payload starts and ends and the frame ends, in bytes."""

    kind: int
    start: int
    stop: int
    end: int


def _checksum(nonce: bytes, offset: int, kind: int, payload: Sequence[Piece], length: int) -> int:
    checksum = crc32c(_SEED.pack(nonce, offset, length, kind))
    for piece in payload:
        checksum = crc32c(piece, checksum)
    return checksum


def encode(nonce: bytes, offset: int, kind: int, payload: Sequence[Piece]) -> tuple[list[Piece], Frame]:
    """Return the pieces to write at byte `offset`, without copying the payload, and the frame they make.

    Kinds are 1 to 255; a payload holds less than 4 GiB in all.
    """
    length = sum(map(len, payload))
    head = _HEAD.pack(length, _checksum(nonce, offset, kind, payload, length), kind)
    start = offset + _HEAD.size
    stop = start + length
    padding = -stop % ALIGNMENT
    return [head, *payload, bytes(padding)], Frame(kind, start, stop, stop + padding)


def walk(content: memoryview, nonce: bytes, offset: int) -> Iterator[Frame]:
    """Yield the frames from byte `offset` on, up to the first that is torn, altered or not a frame."""
    while offset + _HEAD.size <= content.nbytes:
        length, checksum, kind = _HEAD.unpack_from(content, offset)
        start = offset + _HEAD.size
        stop = start + length
        end = stop + -stop % ALIGNMENT
        if kind == 0 or end > content.nbytes:
            return
        with content[start:stop] as payload:
            if _checksum(nonce, offset, kind, [payload], length) != checksum:
                return
        yield Frame(kind, start, stop, end)
        offset = end


class Mapped:
    """A file mapped read-only for as long as the context lasts and buffers of it are alive."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        self.buffer = pa.py_buffer(self._map)

    def __enter__(self) -> Mapped:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Drop the pages from this process's memory; they come back from the page cache when touched."""
        self._map.madvise(mmap.MADV_DONTNEED)


def write_at(descriptor: int, pieces: Sequence[Piece], offset: int) -> None:
    """Write all pieces at `offset`, about CALL_BYTES at a time."""
    left = deque(memoryview(piece) for piece in pieces)
    while left:
        batch: list[memoryview] = []
        room = CALL_BYTES
        while left and room > 0 and len(batch) < MOST_PIECES:
            piece = left.popleft()
            if piece.nbytes > room:
                left.appendleft(piece[room:])
                piece = piece[:room]
            batch.append(piece)
            room -= piece.nbytes
        written = os.pwritev(descriptor, batch, offset)
        offset += written
        # The kernel may take less than all of it.
        while batch and written >= batch[0].nbytes:
            written -= batch.pop(0).nbytes
        if batch:
            left.extendleft(reversed([batch[0][written:], *batch[1:]]))
