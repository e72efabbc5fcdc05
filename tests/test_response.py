"""A body as it arrives: whoever reads it piece by piece holds its connection back, whoever wants all of it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from aiohttp import ClientPayloadError
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.fetch.response import READ_BUFFER_BYTES, Body
from turbo_fetch.fetch.response_head import Framing

PIECE = bytes(50_000)


class Connection:
    """Notes whether it is held back."""

    def __init__(self) -> None:
        self.is_paused = False
        self.memory = memoryview(b"")

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False

    def fill(self, memory: memoryview) -> None:
        assert not self.is_paused
        self.memory = memory


def test_a_connection_is_held_back_while_much_waits_to_be_read_and_goes_on_afterwards() -> None:
    async def scenario() -> None:
        connection = Connection()
        body = Body(Framing(), connection, asyncio.get_running_loop())
        paused = []
        for _ in range(4):
            body.feed_data(PIECE)
            paused.append(connection.is_paused)
        assert paused == [number * len(PIECE) > READ_BUFFER_BYTES for number in range(1, 5)]
        assert await body.readany() == PIECE * 4
        assert not connection.is_paused

    asyncio.run(scenario())


def test_whoever_wants_a_whole_body_is_woken_when_it_is_whole_and_its_connection_is_never_held_back() -> None:
    async def scenario() -> None:
        connection = Connection()
        body = Body(Framing(4 * len(PIECE)), connection, asyncio.get_running_loop())
        arrived = []
        body.on_data = lambda: arrived.append(body.total_bytes)
        body.feed_data(PIECE)
        reading = asyncio.ensure_future(body.read())
        for _ in range(3):
            await asyncio.sleep(0)
            connection.memory[: len(PIECE)] = PIECE
            connection.memory = connection.memory[len(PIECE) :]
            body.filled(len(PIECE))
            assert (connection.is_paused, reading.done()) == (False, False)
        body.feed_eof()
        assert len(connection.memory) == 1, "room for a byte that is none of the body"
        assert await reading == PIECE * 4
        assert arrived == [number * len(PIECE) for number in range(1, 5)]
        assert body.at_eof()

    asyncio.run(scenario())


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_body_that_breaks_off_is_an_error_for_its_reader_however_it_reads(is_whole: bool) -> None:
    async def scenario() -> None:
        body = Body(Framing(10), Connection(), asyncio.get_running_loop())
        body.feed_data(b"half")
        reading = asyncio.ensure_future(body.read() if is_whole else _all(body))
        await asyncio.sleep(0)
        body.set_exception(ClientPayloadError("broken off"))
        with pytest.raises(ClientPayloadError):
            await reading

    asyncio.run(scenario())


async def _all(body: Body) -> bytes:
    pieces = []
    while piece := await body.readany():
        pieces.append(piece)
    return b"".join(pieces)


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=9), st.booleans(), st.integers(0, 9))
def test_bytes_come_out_as_they_went_in(pieces: Sequence[bytes], is_whole: bool, early: int) -> None:
    async def scenario() -> None:
        body = Body(Framing(), Connection(), asyncio.get_running_loop())
        ends = []
        body.on_end = lambda: ends.append(body.total_bytes)
        for piece in pieces[:early]:
            body.feed_data(piece)
        reading = asyncio.ensure_future(body.read() if is_whole else _all(body))
        for piece in pieces[early:]:
            body.feed_data(memoryview(piece))
            await asyncio.sleep(0)
        body.feed_eof()
        read = await reading
        assert (read, type(read)) == (b"".join(pieces), bytes)
        assert ends == [len(read)]

    asyncio.run(scenario())
