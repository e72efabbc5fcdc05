"""Bodies that come packed although nobody asked for it: unpacked piece by piece, never more at once than can be held.

The names are those of Content-Encoding and Transfer-Encoding. A decoder gives out at most PIECE_BYTES at a time, so a
bomb ends at whatever limit its reader sets.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import brotli

PIECE_BYTES: Final = 262_144
"""Most bytes that one step gives out."""

MAX_CODINGS: Final = 4
"""One fewer than in curl; two have been seen."""
_ZSTD_WINDOW_BYTES: Final = 8_388_608
"""RFC 9659."""
_ZSTD_STEP_BYTES: Final = 256
_SNIFFED_BYTES: Final = 16
_SHOWN_CHARACTERS: Final = 40
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_FORMATS: Final = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    b"\0\0\x01\0",
    b"\0\0\0\x0cJXL ",
    b"\0\0\0\x0cjP  ",
    b"\xff\x4f\xff\x51",
)
_BRANDED: Final = ((b"RIFF", 8, b"WEBP"), (b"", 4, b"ftyp"), (b"BM", 6, b"\0\0\0\0"))


class CodingError(Exception):
    """A body is not packed as its headers say; the text says how."""


class _Decoder(Protocol):
    @property
    def is_whole(self) -> bool:
        """Whether the data may end here."""
        ...

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Give out what the next bytes hold, in pieces; raises ValueError if they cannot be decoded."""
        ...


class _Zlib:
    """gzip of one or more members, or deflate in zlib's wrapping, as RFC 9110 wants it, or without, as some send it.

    Which of them it is, the bytes say: the names are mixed up. Data may end within the checksum and length that follow
    it, which some servers leave out and curl does not miss; those that are there must be right.
    """

    def __init__(self) -> None:
        self._has_end = False
        self._checksum = 0
        self._length = 0
        self._inflater: Any = None
        self._is_gzip = self._is_wrapped = False
        self._beginning = b""
        self._has_ended = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data and not self._has_ended:
            if self._inflater is None:
                data = self._beginning + data
                if len(data) < len(_GZIP_MAGIC):
                    self._beginning = data
                    return
                self._is_gzip = data.startswith(_GZIP_MAGIC)
                has_wrapping = data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0
                window = (
                    _GZIP_WINDOW if self._is_gzip else zlib.MAX_WBITS if has_wrapping else -zlib.MAX_WBITS
                )
                self._begin(window)
            try:
                piece = self._inflater.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise ValueError from error
            data = self._inflater.unconsumed_tail
            if piece:
                self._count(piece)
                yield piece
            if not self._inflater.eof:
                self._has_end = False
                if not data:
                    # What zlib still holds back comes only when asked for.
                    yield from self._held_back(piece)
                continue
            self._has_end = True
            data = self._inflater.unused_data
            # Padding after the end is ignored, as everywhere; a further member is not.
            if self._is_gzip and data[:1] == _GZIP_MAGIC[:1]:
                self._begin(_GZIP_WINDOW)
            elif data:
                self._has_ended = True

    @property
    def is_whole(self) -> bool:
        """Whether the data may end here: all of it came, and maybe a part of what follows it."""
        if self._has_end or not self._is_wrapped:
            return self._has_end
        if self._is_gzip:
            end = struct.pack("<II", self._checksum, self._length & 0xFFFFFFFF)
        else:
            end = struct.pack(">I", self._checksum)
        return any(self._ends_with(end[begun:]) for begun in range(len(end)))

    def _ends_with(self, rest: bytes) -> bool:
        """Whether what came ends, without a further byte of data, when the rest of what follows it comes."""
        inflater = self._inflater.copy()
        try:
            return not inflater.decompress(rest) and inflater.eof and not inflater.unused_data
        except zlib.error:
            return False

    def _begin(self, window: int) -> None:
        self._inflater = zlib.decompressobj(window)
        self._is_wrapped = window > 0
        self._checksum, self._length = (0 if self._is_gzip else 1), 0

    def _count(self, piece: bytes) -> None:
        self._checksum = (zlib.crc32 if self._is_gzip else zlib.adler32)(piece, self._checksum)
        self._length += len(piece)

    def _held_back(self, piece: bytes) -> Iterator[bytes]:
        assert self._inflater is not None
        while len(piece) == PIECE_BYTES:
            piece = self._inflater.decompress(b"", PIECE_BYTES)
            if piece:
                self._count(piece)
                yield piece
        self._has_end = self._inflater.eof


class _Brotli:
    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()
        self.is_whole = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self.is_whole:
            return
        try:
            piece = self._decompressor.process(data, output_buffer_limit=PIECE_BYTES)
            while piece:
                yield piece
                if self._decompressor.can_accept_more_data():
                    break
                piece = self._decompressor.process(b"", output_buffer_limit=PIECE_BYTES)
        except brotli.error as error:
            raise ValueError from error
        self.is_whole = self._decompressor.is_finished()


class _Zstd:
    """One frame or more. A block of four bytes may stand for 128 KiB, so that few bytes are taken at a time."""

    def __init__(self) -> None:
        # Two milliseconds of a start, for what hardly any body needs.
        import zstandard

        self._error = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
        self._frame = self._decompressor.decompressobj()
        self.is_whole = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            try:
                piece = self._frame.decompress(data[:_ZSTD_STEP_BYTES])
            except self._error as error:
                if self.is_whole:
                    return
                raise ValueError from error
            data = self._frame.unused_data + data[_ZSTD_STEP_BYTES:]
            self.is_whole = self._frame.eof
            if piece:
                yield piece


_DECODERS: Final[dict[str, Callable[[], _Decoder]]] = {
    "gzip": _Zlib,
    "deflate": _Zlib,
    "br": _Brotli,
    "zstd": _Zstd,
}
_SAME: Final = {"x-gzip": "gzip", "x-deflate": "deflate", "x-br": "br", "brotli": "br"}


class Unpacker:
    """Undoes the codings of one body. A body that is an image as it came is left as it is: its headers are wrong."""

    def __init__(self, codings: tuple[str, ...]) -> None:
        self._names = [_SAME.get(coding, coding) for coding in codings]
        self._chain: list[_Decoder] | None = None
        self._beginning = b""
        self.worked_bytes = 0
        """Bytes that all decoders together have given out."""

    def decode(self, data: bytes, *, is_last: bool = False) -> Iterator[bytes]:
        """Give out what the next bytes hold, in pieces; raises CodingError.

        Some are empty: they let the caller end it where much work brings forth little.
        """
        if self._chain is None:
            self._beginning += data
            if len(self._beginning) < _SNIFFED_BYTES and not is_last:
                return
            data = self._beginning
            self._chain = self._decoders(data)
        if data:
            yield from self._through(data, self._chain)
        if is_last and not all(decoder.is_whole for decoder in self._chain) and self._beginning:
            raise CodingError(f"the body ends before its {self._label} does")

    @property
    def _label(self) -> str:
        return " in ".join(self._names)

    def _decoders(self, beginning: bytes) -> list[_Decoder]:
        if is_picture(beginning):
            return []
        if len(self._names) > MAX_CODINGS:
            raise CodingError(f"more than {MAX_CODINGS} codings")
        for name in self._names:
            if name not in _DECODERS:
                raise CodingError(f"unknown Content-Encoding: {name[:_SHOWN_CHARACTERS]}")
        return [_DECODERS[name]() for name in reversed(self._names)]

    def _through(self, data: bytes, chain: list[_Decoder]) -> Iterator[bytes]:
        if not chain:
            yield data
            return
        try:
            for piece in chain[0].decode(data):
                self.worked_bytes += len(piece)
                yield b""
                yield from self._through(piece, chain[1:])
        except ValueError as error:
            raise CodingError(f"the body is not {self._label}, as its headers say") from error


def is_picture(beginning: bytes) -> bool:
    """Whether a body begins as the image formats do; SVG and what is rare are not looked for."""
    return beginning.startswith(_FORMATS) or any(
        beginning.startswith(start) and beginning[at : at + len(brand)] == brand
        for start, at, brand in _BRANDED
    )
