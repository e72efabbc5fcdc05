"""A file of a list as a stream of bytes: decompressed, and for text as UTF-8 without byte order mark."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, Protocol, cast

import zstandard

from turbo_fetch.errors import InputError
from turbo_fetch.plan.lists import ListFile, readable

BLOCK_BYTES: Final = 256 << 10
RAW_BYTES: Final = 128 << 10
FED_BYTES: Final = 1 << 10
"""To a decompressor that has no other bound: Zstandard makes at most 32 MB of so much at once."""
MAX_WINDOW_BYTES: Final = 1 << 31
"""What a decompressor may look back to: `zstd --long=31`, and more than any xz preset."""

_MAGIC_BYTES: Final = 10
_BZ2_STARTS: Final = (b"1AY&SY", b"\x17rE8P\x90")
"""What follows in the first bytes of a bzip2 stream: a block, or the end of an empty one."""
_ZSTD_SKIPPED: Final = range(0x50, 0x60)
"""The first byte of a Zstandard frame that holds no data (RFC 8878, 3.1.2)."""
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
        self.size = source.size
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
        if self._raw.closed or not self.size:
            return 1.0 if self._raw.closed else 0.0
        return min(1.0, self._raw.tell() / self.size)

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
    if head.startswith(b"BZh") and head[4:] in _BZ2_STARTS:
        return io.BufferedReader(_Decompressed(raw, bz2.BZ2Decompressor, "bzip2 stream"), BLOCK_BYTES)
    if head.startswith(b"\xfd7zXZ\0"):
        return io.BufferedReader(_Decompressed(raw, _new_xz, "xz stream"), BLOCK_BYTES)
    is_skipped = head[1:4] == b"\x2a\x4d\x18" and head[0] in _ZSTD_SKIPPED
    if is_skipped or head.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BufferedReader(_Decompressed(raw, _Zstandard, "Zstandard frame"), BLOCK_BYTES)
    return raw


_Peekable = io.BufferedReader | gzip.GzipFile


class _Decompressor(Protocol):
    """Decompresses one frame; what follows it in the last block is `unused_data`."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, most: int, /) -> bytes: ...


def _new_xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_WINDOW_BYTES)


class _Zstandard:
    """A decompressor that gives all out at once."""

    needs_input = True

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, _most: int, /) -> bytes:
        return self._frame.decompress(data)


class _Decompressed(io.RawIOBase):
    """A decompressed file of any number of frames, zeros between them, that takes flat memory whatever it expands to.

    Raises EOFError where the last frame is cut off, and what the decompressor raises for what is no frame.
    """

    def __init__(self, raw: IO[bytes], new: Callable[[], _Decompressor], what: str) -> None:
        self._raw = raw
        self._new = new
        self._what = what
        self._frame = new()
        self._is_within = True
        self._input = b""
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._rest:
            has_more = not self._frame.eof and not self._frame.needs_input
            self._input = self._input or (b"" if has_more else self._raw.read(FED_BYTES))
            if not self._input and not has_more:
                if self._is_within:
                    raise EOFError(f"the last {self._what} is cut off")
                return 0
            self._rest = memoryview(self._decompress())
        size = min(len(target), len(self._rest))
        target[:size], self._rest = self._rest[:size], self._rest[size:]
        return size

    def _decompress(self) -> bytes:
        """Decompress the input up to the end of a frame."""
        if not self._is_within:
            self._input = self._input.lstrip(b"\0")
            if not self._input:
                return b""
            self._frame, self._is_within = self._new(), True
        block, self._input = self._input, b""
        # Some forty bytes of bzip2 may be as many megabytes.
        found = self._frame.decompress(block, BLOCK_BYTES)
        if self._frame.eof:
            self._is_within, self._input = False, self._frame.unused_data
        return found
