"""Binary values in Arrow arrays, in and out without copies.

A view array refers to memory wherever it is, so that images are handed on from the network to the final file as
they lie. https://arrow.apache.org/docs/format/Columnar.html#variable-size-binary-view-layout
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Blob = bytes | memoryview

INLINE_BYTES: Final = 12
"""Values up to this length lie in the view itself."""

_VIEW: Final = struct.Struct("<i4sii")
_INLINE: Final = struct.Struct("<i12s")
_NULL: Final = bytes(_VIEW.size)
_HUGE_PAGES: Final = getattr(mmap, "MADV_HUGEPAGE", None)
"""Linux has them, unless its kernel was built without; the advice then fails, which does no harm."""


def view_array(values: Sequence[Blob | None]) -> pa.BinaryViewArray:
    """Return an array that refers to `values`, each less than 2 GiB, and keeps them alive."""
    views: list[bytes] = []
    buffers: list[pa.Buffer] = []
    for value in values:
        if value is None:
            views.append(_NULL)
        elif len(value) <= INLINE_BYTES:
            views.append(_INLINE.pack(len(value), bytes(value)))
        else:
            views.append(_VIEW.pack(len(value), bytes(value[:4]), len(buffers), 0))
            buffers.append(pa.py_buffer(value))
    parts = [_validity(values), pa.py_buffer(b"".join(views)), *buffers]
    return pa.Array.from_buffers(pa.binary_view(), len(values), parts)


def blobs(array: pa.BinaryArray | pa.BinaryViewArray) -> list[Blob | None]:
    """Return the values as they lie in the memory of `array`, which they keep alive; None for nulls."""
    _, first, *data = array.buffers()
    if pa.types.is_binary_view(array.type):
        found = _viewed(memoryview(first), [memoryview(each) for each in data], array.offset, len(array))
    else:
        ends = np.frombuffer(first, np.int32)[array.offset : array.offset + len(array) + 1].tolist()
        content = memoryview(data[0] if data[0] is not None else b"")
        found = [content[start:stop] for start, stop in pairwise(ends)]
    if not array.null_count:
        return found
    return [blob if valid else None for blob, valid in zip(found, array.is_valid().to_pylist(), strict=True)]


def lengths(array: pa.BinaryViewArray) -> npt.NDArray[np.uint32]:
    """Return the length of each value in bytes, 0 for nulls."""
    views = np.frombuffer(array.buffers()[1], np.uint32).reshape(-1, 4)
    found: npt.NDArray[np.uint32] = views[array.offset : array.offset + len(array), 0]
    return np.where(array.is_valid(), found, 0) if array.null_count else found


def contiguous(array: pa.BinaryArray | pa.BinaryViewArray) -> pa.BinaryArray:
    """Return an array of the same values whose bytes follow one another, for what cannot take views.

    They are copied into memory that goes back to the system when it is freed: Arrow's allocator was seen to keep
    blocks of this size, 1.5 GB after 1.5 GB of images went through it. In small pages, half of the time was spent
    on page faults.
    """
    if pa.types.is_binary(array.type):
        return array
    ends = np.concatenate(([0], np.cumsum(lengths(array), dtype=np.int64))).astype(np.int32)
    target = mmap.mmap(-1, max(int(ends[-1]), 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if _HUGE_PAGES is not None:
        with suppress(OSError):
            target.madvise(_HUGE_PAGES)
    values = blobs(array)
    for start, value in zip(ends.tolist(), values, strict=False):
        if value is not None:
            target[start : start + len(value)] = value
    buffers = [_validity(values), pa.py_buffer(ends), pa.py_buffer(target)]
    return pa.BinaryArray.from_buffers(pa.binary(), len(values), buffers)


def _viewed(views: memoryview, data: list[memoryview], first: int, count: int) -> list[Blob | None]:
    found: list[Blob | None] = []
    for place in range(first * _VIEW.size, (first + count) * _VIEW.size, _VIEW.size):
        length, _, number, start = _VIEW.unpack_from(views, place)
        if length <= INLINE_BYTES:
            found.append(views[place + 4 : place + 4 + length])
        else:
            found.append(data[number][start : start + length])
    return found


def _validity(values: Sequence[Blob | None]) -> pa.Buffer:
    return pa.py_buffer(
        np.packbits(np.array([value is not None for value in values], np.bool_), bitorder="little")
    )
