"""The body of a response, read under a byte cap, charged to the budget, and unpacked if it is packed."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import ClientPayloadError

from turbo_fetch.fetch.budget import BodyReader, ByteBudget
from turbo_fetch.fetch.codings import MAX_CODINGS, PIECE_BYTES, Unpacker
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
    reader = budget.reader()
    is_whole = False
    try:
        read = _packed if content.framing.codings else _plain
        chunks = await read(content, reader, max_bytes, draft, deadline)
        is_whole = chunks is not None
    finally:
        if is_whole:
            reader.finish(draft.body_bytes)
        else:
            reader.abandon()
    if chunks is None:
        return None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


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
    paused_at_bytes = 0
    is_last = False
    deadline.progress()
    while not is_last:
        chunk = await content.readany()
        is_last = not chunk
        deadline.progress()
        # What comes in and what lies between has a bound too, for a bomb may be one that gives out nothing.
        if content.total_bytes > max_bytes:
            return None
        for piece in unpacker.decode(chunk, is_last=is_last):
            draft.body_bytes += len(piece)
            if draft.body_bytes > max_bytes or unpacker.worked_bytes > MAX_CODINGS * max_bytes:
                return None
            if piece:
                chunks.append(piece)
            if unpacker.worked_bytes - paused_at_bytes >= PIECE_BYTES:
                paused_at_bytes = unpacker.worked_bytes
                await asyncio.sleep(0)
        reader.charge_up_to(draft.body_bytes)
        if not content.at_eof():
            await _turn(reader, deadline)
    if content.is_cut and draft.body_bytes != content.framing.length:
        raise ClientPayloadError("the connection ended before the body")
    return chunks


async def _turn(reader: BodyReader, deadline: Deadline) -> None:
    """Wait until the budget lets a body go on; the deadline stands still meanwhile."""
    if reader.may_read:
        return
    deadline.pause()
    try:
        await reader.turn()
    finally:
        deadline.resume()
