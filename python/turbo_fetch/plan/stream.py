"""A file of a list as a stream of bytes: decompressed, and for text as UTF-8 without byte order mark."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Iterator
from typing import IO, Any, Final, cast

import zstandard

from turbo_fetch.errors import InputError
from turbo_fetch.plan.lists import ListFile, readable

BLOCK_BYTES: Final = 256 << 10
RAW_BYTES: Final = 128 << 10

_MAGIC_BYTES: Final = 10
_BZ2_BLOCK: Final = b"1AY&SY"
_ENCODINGS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks, the longer before those that they start with."""


class ByteStream:
    """An open file of a list, decompressed by what it holds, whatever its name says.

    `file` reads the decompressed bytes, of which `head` shows the first; `bytes_read` counts those of text. What goes
    wrong while reading is
    raised as InputError by the methods here; around `file`, that is for the caller.
    """

    def __init__(self, source: ListFile) -> None:
        self.url = source.url
        self.local_path = source.local_path
        self.bytes_read = 0
        self._size = source.size
        self._raw = source.open()
        self._buffered = io.BufferedReader(cast(Any, self._raw), RAW_BYTES)
        try:
            with readable(self.url):
                magic = self._buffered.peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
                self.file = _decompressed(self._buffered, magic)
        except InputError:
            self._buffered.close()
            raise
        self.is_compressed = self.file is not self._buffered

    def head(self, size: int) -> bytes:
        """Return up to `size` of the bytes that come next, without reading on."""
        with readable(self.url):
            return self.file.peek(size)[:size]

    @property
    def fraction_read(self) -> float:
        """How much of the file's bytes, compressed if it is, has been read, 0 to 1."""
        if self._raw.closed or not self._size:
            return 1.0 if self._raw.closed else 0.0
        return min(1.0, self._raw.tell() / self._size)

    def text_blocks(self) -> Iterator[bytes]:
        """Yield the text in blocks of about 256 KiB, as UTF-8 unless its bytes are none, no mark.

        Text in UTF-16 or UTF-32 is recognised by its mark. Raises InputError if it cannot be read.
        """
        with readable(self.url):
            block = self.file.read(BLOCK_BYTES)
            mark, encoding = _encoding(block)
            block = block[len(mark) :]
            decoder = codecs.getincrementaldecoder(encoding)("replace")
            while block:
                self.bytes_read += len(block)
                yield block if encoding == "utf-8" else decoder.decode(block).encode()
                block = self.file.read(BLOCK_BYTES)
            if encoding != "utf-8":
                yield decoder.decode(b"", final=True).encode()

    def close(self) -> None:
        """Close the file; reading ends."""
        self.file.close()
        self._buffered.close()


def _encoding(head: bytes) -> tuple[bytes, str]:
    """Return the byte order mark that text starts with, empty if none, and its encoding."""
    return next((entry for entry in _ENCODINGS if head.startswith(entry[0])), (b"", "utf-8"))


def _decompressed(raw: io.BufferedReader, head: bytes) -> _Peekable:
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if head.startswith(b"BZh") and head[4:] == _BZ2_BLOCK:
        return bz2.BZ2File(raw)
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(raw)
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BufferedReader(_ZstdFile(raw), BLOCK_BYTES)
    return raw


_Peekable = io.BufferedReader | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile


class _ZstdFile(io.RawIOBase):
    """A decompressed Zstandard file of any number of frames.

    Unlike the stream reader of zstandard it raises EOFError where the last frame is cut off.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._context = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame = self._context.decompressobj()
        self._is_within = False
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._rest:
            block = self._raw.read(RAW_BYTES)
            if not block:
                if self._is_within:
                    raise EOFError("the last Zstandard frame is cut off")
                return 0
            self._rest = self._decompress(block)
        size = min(len(target), len(self._rest))
        target[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def _decompress(self, block: bytes) -> bytes:
        parts = []
        while block:
            parts.append(self._frame.decompress(block))
            self._is_within = not self._frame.eof
            block = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = self._context.decompressobj()
        return b"".join(parts)
