"""The body of a response, read under a byte cap, charged to the budget, and unpacked if it is packed."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from aiohttp import ClientPayloadError

from turbo_fetch.fetch.budget import BodyReader, ByteBudget
from turbo_fetch.fetch.codings import MAX_CODINGS, Unpacker
from turbo_fetch.fetch.deadline import Deadline
from turbo_fetch.fetch.request import Draft
from turbo_fetch.fetch.response import Body, Bytes

WHOLE_BYTES: Final = 1_000_000
"""A body announced to be no larger is charged as a whole in advance, and its connection is never paused."""


async def read_body(
    content: Body, budget: ByteBudget, max_bytes: int, draft: Draft, deadline: Deadline
) -> Bytes | None:
    """Return a body, which stays charged to the budget, or None if it is larger than allowed.

    Raises CodingError if it is not packed as its headers say.
    """
    reader = budget.reader(draft.domain)
    body: Bytes | None = None
    try:
        read = _packed if content.framing.codings else _plain
        chunks = await read(content, reader, max_bytes, draft, deadline)
        if chunks is not None:
            body = await _joined(chunks, draft.body_bytes)
    finally:
        if body is not None:
            reader.finish(draft.body_bytes)
        else:
            reader.abandon()
    return body


async def _joined(chunks: list[Bytes], count: int) -> Bytes:
    if len(chunks) == 1:
        return chunks[0]
    if count < WHOLE_BYTES:
        return b"".join(chunks)
    # Copied without the interpreter's lock.
    return await asyncio.get_running_loop().run_in_executor(None, b"".join, chunks)


async def _plain(
    content: Body, reader: BodyReader, max_bytes: int, draft: Draft, deadline: Deadline
) -> list[Bytes] | None:
    announced_bytes = content.framing.length or 0
    if 0 < announced_bytes <= WHOLE_BYTES:
        return await _announced(content, reader, draft, deadline)
    chunks: list[Bytes] = []
    deadline.progress()
    while chunk := await content.readany():
        deadline.progress()
        draft.body_bytes += len(chunk)
        if draft.body_bytes > max_bytes:
            return None
        chunks.append(chunk)
        reader.charge_up_to(draft.body_bytes)
        if not content.at_eof():
            await _turn(reader, deadline)
    return chunks


async def _announced(content: Body, reader: BodyReader, draft: Draft, deadline: Deadline) -> list[Bytes]:
    """Read a small body of known length at once: its reader is woken only when it is whole."""
    await _turn(reader, deadline)
    reader.charge_up_to(content.framing.length or 0)
    deadline.progress()
    content.on_data = deadline.progress
    try:
        return [await content.read()]
    finally:
        draft.body_bytes = content.total_bytes


async def _packed(
    content: Body, reader: BodyReader, max_bytes: int, draft: Draft, deadline: Deadline
) -> list[Bytes] | None:
    chunks: list[Bytes] = []
    unpacker = Unpacker(content.framing.codings)
    loop = asyncio.get_running_loop()
    is_last = False
    deadline.progress()
    while not is_last:
        chunk = await content.readany()
        is_last = not chunk
        deadline.progress()
        # What comes in and what lies between has a bound too, for a bomb may be one that gives out nothing.
        if content.total_bytes > max_bytes:
            return None
        # In a thread: a few bytes of one host may take as long as hundreds of images of others.
        work = partial(_unpack, unpacker, chunk, is_last, max_bytes - draft.body_bytes, max_bytes)
        pieces, is_too_large = await loop.run_in_executor(None, work)
        chunks += pieces
        draft.body_bytes += sum(map(len, pieces))
        if is_too_large:
            return None
        reader.charge_up_to(draft.body_bytes)
        if not content.at_eof():
            await _turn(reader, deadline)
    if content.is_cut and draft.body_bytes != content.framing.length:
        raise ClientPayloadError("the connection ended before the body")
    return chunks


def _unpack(
    unpacker: Unpacker, chunk: bytes, is_last: bool, left_bytes: int, max_bytes: int
) -> tuple[list[bytes], bool]:
    """Return the pieces that the next bytes hold, and whether they go beyond what is left."""
    pieces: list[bytes] = []
    for piece in unpacker.decode(chunk, is_last=is_last):
        left_bytes -= len(piece)
        if piece:
            pieces.append(piece)
        if left_bytes < 0 or unpacker.worked_bytes > MAX_CODINGS * max_bytes:
            return pieces, True
    return pieces, False


async def _turn(reader: BodyReader, deadline: Deadline) -> None:
    """Wait until the budget lets a body go on; the deadline stands still meanwhile."""
    if reader.may_read:
        return
    deadline.pause()
    try:
        await reader.turn()
    finally:
        deadline.resume()
