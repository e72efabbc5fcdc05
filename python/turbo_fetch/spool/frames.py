"""Frames of an append-only file: each proves that it is whole, where it belongs, and which file it is of.

A file is a 16-byte preamble (magic, random nonce) and frames. A frame is a 16-byte head (payload length,
CRC-32C, kind) and the payload, padded with zeros to a multiple of 16 so that Arrow buffers stay aligned. The
CRC covers nonce, offset, length and kind as well, so that neither the remains of an older write nor a
image that contains the bytes of a frame can pass for one.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from turbo_fetch import _native

Piece = bytes | memoryview
"""A part of what is written; the length of a view is that in bytes."""

PREAMBLE: Final = struct.Struct("<8s8s")
MAGIC: Final = b"TFSPOOL2"
ALIGNMENT: Final = 16

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
    return _native.crc32c([_SEED.pack(nonce, offset, length, kind), *payload])


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
