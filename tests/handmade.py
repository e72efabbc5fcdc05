"""Files that no encoder here writes: bitmaps, icons, PNG and GIF of every depth and layout, byte by byte."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.uint8]
"""Pixels as height by width by 3, or indices as height by width."""


def packed(rows: npt.NDArray[np.integer], bits: int) -> list[bytes]:
    """Return rows of samples of 1, 2, 4, 8 or 16 bits, the most significant first, each filled up to a byte."""
    flat = rows.reshape(len(rows), -1)
    if bits == 16:
        return [row.astype(">u2").tobytes() for row in flat]
    spread = (flat[..., None].astype(np.uint8) >> np.arange(bits - 1, -1, -1)) & 1
    return [np.packbits(row.reshape(-1)).tobytes() for row in spread]


def bmp_rows(rows: list[bytes], *, top_down: bool) -> bytes:
    """Return the rows of a bitmap, each filled up to four bytes."""
    filled = [row + bytes(-len(row) % 4) for row in rows]
    return b"".join(filled if top_down else filled[::-1])


def masked_rows(pixels: Levels, bits: int, masks: Sequence[int]) -> list[bytes]:
    """Return rows of pixels whose channels lie where the masks say."""
    values = np.zeros(pixels.shape[:2], np.uint64)
    for channel, mask in enumerate(masks):
        if mask:
            shift = (mask & -mask).bit_length() - 1
            levels = pixels[..., channel].astype(np.uint64) * (mask >> shift) // 255
            values |= levels << np.uint64(shift)
    wide = values.astype("<u4")
    return [np.frombuffer(row.tobytes(), np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes() for row in wide]


def bmp(
    size: tuple[int, int],
    bits: int,
    data: bytes,
    *,
    header: int = 40,
    compression: int = 0,
    masks: Sequence[int] = (),
    palette: Sequence[tuple[int, int, int]] = (),
    top_down: bool = False,
    file_header: bool = True,
) -> bytes:
    """Return a bitmap of one of the header sizes 12, 40, 52, 56, 64, 108 and 124."""
    width, height = size
    if header == 12:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
        table = b"".join(bytes(colour[::-1]) for colour in palette)
    else:
        stored = -height if top_down else height
        head = struct.pack(
            "<IiiHHIIiiII", header, width, stored, 1, bits, compression, len(data), 0, 0, len(palette), 0
        )
        inside = b"".join(struct.pack("<I", mask) for mask in masks)
        head += inside if header == 40 else inside.ljust(header - 40, b"\0")[: header - 40]
        table = b"".join(bytes(colour[::-1]) + b"\0" for colour in palette)
    body = head + table + data
    if not file_header:
        return body
    offset = 14 + len(head) + len(table)
    return b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, offset) + body


def runs(indices: Levels, rng: random.Random, *, narrow: bool) -> bytes:
    """Return RLE8 or RLE4 data: runs and absolute pieces in turn, bottom row first."""
    data = bytearray()
    for row in indices[::-1].tolist():
        at = 0
        while at < len(row):
            length = 1
            while at + length < min(len(row), at + 255) and row[at + length] == row[at]:
                length += 1
            absolute = min(rng.randint(3, 20), len(row) - at)
            if length < 3 and absolute >= 3:
                piece = row[at : at + absolute]
                data += bytes([0, absolute])
                stored = nibbles(piece) if narrow else bytes(piece)
                data += stored + bytes(len(stored) % 2)
                at += absolute
            else:
                data += bytes([length, row[at] * 17 if narrow else row[at]])
                at += length
        data += b"\0\0"
    return bytes(data[:-2] + b"\0\1")


def nibbles(values: Sequence[int]) -> bytes:
    """Return values of four bits, two to a byte."""
    even = [*values, 0] if len(values) % 2 else list(values)
    return bytes(high << 4 | low for high, low in zip(even[::2], even[1::2], strict=True))


def ico(entries: Sequence[tuple[tuple[int, int], int, bytes]]) -> bytes:
    """Return an icon of images given as sides, bits that the directory states, and contents."""
    offset = 6 + 16 * len(entries)
    directory, data = struct.pack("<HHH", 0, 1, len(entries)), b""
    for (width, height), bits, content in entries:
        directory += struct.pack(
            "<BBBBHHII", width % 256, height % 256, 0, 0, 1, bits, len(content), offset + len(data)
        )
        data += content
    return directory + data


def icon_bitmap(
    pixels: Levels, mask: Levels, bits: int, palette: Sequence[tuple[int, int, int]] = ()
) -> bytes:
    """Return the bitmap of an icon: pixels of 24 or 32 bits (the mask as alpha) or indices, and a mask below them."""
    height, width = pixels.shape[:2]
    if bits >= 24:
        masks = [0xFF0000, 0xFF00, 0xFF, 0xFF000000][: bits // 8]
        rows = masked_rows(np.dstack([pixels, mask]), bits, masks)
    else:
        rows = packed(pixels, bits)
    shape = packed((mask < 128).astype(np.uint8), 1)
    data = bmp_rows(rows, top_down=False) + bmp_rows(shape, top_down=False)
    return bmp((width, height * 2), bits, data, palette=palette, file_header=False)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(
    samples: npt.NDArray[np.integer],
    bits: int,
    colour_type: int,
    *,
    interlaced: bool = False,
    extra: Sequence[tuple[bytes, bytes]] = (),
    late: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return a PNG of samples, height by width by channels; `extra` stands before the data and `late` after it."""
    height, width = samples.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, int(interlaced))
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    rows = [
        b"\0" + row
        for left, top, across, down in passes
        if samples[top::down, left::across].size
        for row in packed(samples[top::down, left::across], bits)
    ]
    chunks = [(b"IHDR", head), *extra, (b"IDAT", zlib.compress(b"".join(rows))), *late, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def lzw(indices: bytes, bits: int) -> bytes:
    """Return GIF data that grows no table: a clear code before each few indices keeps codes at their first length."""
    clear, width, room = 1 << bits, bits + 1, (1 << bits) - 2
    codes: list[int] = []
    for start in range(0, len(indices), max(room, 1)):
        codes += [clear, *indices[start : start + max(room, 1)]]
    codes.append(clear + 1)
    value = sum(code << (width * place) for place, code in enumerate(codes))
    stream = value.to_bytes((width * len(codes) + 7) // 8, "little")
    blocks = [stream[start : start + 255] for start in range(0, len(stream), 255)]
    return bytes([bits]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def gif(
    indices: Levels,
    *,
    screen: tuple[int, int],
    at: tuple[int, int] = (0, 0),
    colours: Sequence[tuple[int, int, int]] = (),
    own_colours: Sequence[tuple[int, int, int]] = (),
    transparent: int | None = None,
    interlaced: bool = False,
    background: int = 0,
    before: bytes = b"",
) -> bytes:
    """Return a GIF of one frame; numbers of colours are powers of two, and `before` stands before the frame."""
    height, width = indices.shape
    lines = [*range(0, height, 8), *range(4, height, 8), *range(2, height, 4), *range(1, height, 2)]
    ordered = indices[lines] if interlaced else indices
    body = b"GIF89a" + struct.pack("<HHBBB", *screen, _table_flags(colours), background, 0)
    body += b"".join(map(bytes, colours))
    if transparent is not None:
        body += b"\x21\xf9\x04\x01\0\0" + bytes([transparent]) + b"\0"
    flags = _table_flags(own_colours) | (0x40 if interlaced else 0)
    body += before + b"\x2c" + struct.pack("<HHHHB", *at, width, height, flags)
    body += b"".join(map(bytes, own_colours))
    bits = max(2, int(indices.max(initial=1)).bit_length())
    return body + lzw(ordered.tobytes(), bits) + b"\x3b"


def _table_flags(colours: Sequence[tuple[int, int, int]]) -> int:
    return 0x80 | (len(colours).bit_length() - 2) if colours else 0
