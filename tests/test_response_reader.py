"""The reader of answers: the same whatever the segments, bounded whatever the bytes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from aiohttp import ClientPayloadError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oddities import head, oddities
from turbo_fetch.fetch.response import FILLED_BYTES, Body
from turbo_fetch.fetch.response_head import MAX_HEAD_BYTES, MAX_HEADERS, Head, MalformedResponse, parse_head
from turbo_fetch.fetch.response_reader import ResponseReader

LOOP = asyncio.new_event_loop()
PICTURE = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 3
ANSWERS = [
    b"".join(part for part in script if isinstance(part, bytes))
    for oddity in oddities(PICTURE)
    for script in oddity.scripts.values()
]
SHORT_ANSWERS = [answer for answer in ANSWERS if len(answer) < 20_000]
FRAGMENTS = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 103 x",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b": ",
    b" ",
    b"Content-Length",
    b"Transfer-Encoding: chunked",
    b"5",
    b"0",
    b"ab",
    b"\xff",
]


class Unhurried:
    """A connection that has no more bytes than were fed."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def fill(self, memory: memoryview) -> None:
        self.memory = memory


@dataclass(slots=True)
class Read:
    """What became of an answer."""

    head: Head | None = None
    body: bytes = b""
    has_surplus: bool = False
    end: str = "open"


def read(segments: Iterable[bytes], *, closes: bool = True) -> Read:
    """Read segments as they would come over a connection that ends then."""
    result = Read()
    bodies: list[Body] = []

    def on_head(head: Head, body: Body) -> None:
        assert result.head is None
        result.head = head
        bodies.append(body)

    reader = ResponseReader(Unhurried(), LOOP, on_head)
    try:
        for segment in segments:
            reader.feed(segment)
        if closes and not reader.is_done:
            reader.feed_eof()
        result.end = "whole" if reader.is_done else "open"
    except MalformedResponse as problem:
        result.end = problem.message
    except ClientPayloadError as problem:
        result.end = str(problem)
    result.has_surplus = reader.has_surplus
    if bodies:
        result.body = bodies[0].read_nowait()
    return result


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


@settings(deadline=None)
@given(st.sampled_from(SHORT_ANSWERS), st.lists(st.integers(0, 20_000), max_size=8), st.binary(max_size=3))
def test_an_answer_is_the_same_whatever_its_segments(answer: bytes, places: list[int], more: bytes) -> None:
    whole, segmented = read([answer + more]), read(cut(answer + more, places))
    assert (whole.head, whole.end, whole.has_surplus) == (
        segmented.head,
        segmented.end,
        segmented.has_surplus,
    )
    if whole.end in {"whole", "open"}:
        assert whole.body == segmented.body


@pytest.mark.parametrize("answer", SHORT_ANSWERS)
def test_an_answer_is_the_same_byte_by_byte(answer: bytes) -> None:
    whole, dribbled = read([answer]), read(answer[at : at + 1] for at in range(len(answer)))
    assert (whole.head, whole.end) == (dribbled.head, dribbled.end)


@settings(deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=4), max_size=40))
@example([b"HTTP/1.1 200 OK\r\n\xff: x\r\n\r\n"])
@example([b"HTTP/\xb2.1 200 OK\r\n\r\n"])
@example([b"HTTP/1.1 200 OK\r\nContent-Length: \xc2\xb2\r\n\r\n"])
def test_bytes_of_any_kind_are_an_answer_or_a_reason(fragments: list[bytes]) -> None:
    result = read(fragments)
    assert result.head is None or 200 <= result.head.status <= 999 or result.head.status == 101


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8),
            st.binary(max_size=12).map(lambda value: bytes(byte for byte in value if byte not in b"\0\r\n")),
        ),
        max_size=8,
    )
)
def test_headers_arrive_as_they_were_sent(pairs: list[tuple[str, bytes]]) -> None:
    sent = [(name.encode(), value.strip(b" \t")) for name, value in pairs]
    lines = b"".join(b"%b: %b\r\n" % pair for pair in sent)
    parsed = parse_head(b"HTTP/1.1 200 OK\r\n" + lines)
    assert [
        (name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in parsed.headers.items()
    ] == sent
    assert not parsed.is_odd
    odd = parse_head(b"HTTP/1.1 200 OK\r\n" + lines + b"no colon\r\n")
    assert list(odd.headers.items()) == list(parsed.headers.items())
    assert odd.is_odd


def test_a_rule_against_use_counts_in_an_odd_line() -> None:
    for line in (
        b"X-Robots-Tag : noai",
        b"x-robots-tag\t:noai",
        b"X-Robots-Tag:\n\tnoai",
        b"A: b\rX-Robots-Tag: noai",
    ):
        (found,) = parse_head(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n").headers.getall("X-Robots-Tag")
        assert found == "noai"


FLOODS = {
    "a header line": head()[:-2] + b"X: " + b"x" * 10_000_000,
    "headers": head()[:-2] + b"X: x\r\n" * 2_000_000,
    "odd lines": head()[:-2] + b"x\n" * 5_000_000,
    "empty lines": b"\r\n" * 5_000_000,
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\n" * 400_000,
    "large interim responses": (b"HTTP/1.1 100 Continue\r\nX: " + b"x" * 60_000 + b"\r\n\r\n") * 160,
    "small chunks": head(b"Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 1_600_000,
    "chunk extensions": head(b"Transfer-Encoding: chunked") + b"1;" + b"x" * 10_000_000,
    "small chunks with extensions": head(b"Transfer-Encoding: chunked") + b"1;x=y \nx\n" * 1_000_000,
    "a trailer": head(b"Transfer-Encoding: chunked") + b"0\r\n" + b"x: y\r\n" * 1_600_000,
}


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_soon_and_never_holds_up_the_loop(flood: str) -> None:
    data = FLOODS[flood]
    segments = [data[at : at + 65_536] for at in range(0, len(data), 65_536)]
    longest_s = 0.0

    def timed() -> Iterable[bytes]:
        nonlocal longest_s
        for segment in segments:
            started_s = time.thread_time()
            yield segment
            longest_s = max(longest_s, time.thread_time() - started_s)

    started_s = time.thread_time()
    result = read(timed(), closes=False)
    assert result.end not in {"whole", "open"}
    assert time.thread_time() - started_s < 0.5
    assert longest_s < 0.1
    assert len(result.body) < 1_000_000


def test_a_head_up_to_the_limits_is_taken() -> None:
    frame = len(head(b"X: ", b"Content-Length: 0"))
    wide = head(b"X: " + b"x" * (MAX_HEAD_BYTES - frame), b"Content-Length: 0")
    many = head(*[b"X: x"] * (MAX_HEADERS - 1), b"Content-Length: 0")
    assert read([wide]).end == read([many]).end == "whole"
    assert read([wide.replace(b"X", b"XX")]).end == "headers larger than 256 KiB"
    assert read([head(*[b"X: x"] * (MAX_HEADERS + 2))]).end == f"more than {MAX_HEADERS} headers"


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        ([], "whole"),
        ([b"Content-Length: 2"], "whole"),
        ([b"Content-Length: 3"], "the connection ended before the body"),
        ([b"Content-Length: 2", b"Content-Length: 3"], "whole"),
        ([b"Content-Length: 1", b"Content-Length: 3"], "the connection ended before the body"),
        ([b"Transfer-Encoding: chunked"], "the connection ended before the body"),
    ],
)
def test_the_end_of_a_connection_ends_a_body_that_may_end_there(lines: list[bytes], end: str) -> None:
    assert read([head(*lines) + b"22"]).end == end


@settings(deadline=None)
@given(
    st.integers(FILLED_BYTES, 2 * FILLED_BYTES),
    st.lists(st.integers(0, 1 << 20), max_size=8),
    st.binary(max_size=2),
)
def test_a_body_that_is_read_to_where_it_stays_is_the_same_whatever_its_segments(
    length: int, places: list[int], more: bytes
) -> None:
    content = bytes(place * 7 % 251 for place in range(length))
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length
    segments = cut(content + more, places)

    async def scenario() -> None:
        bodies: list[Body] = []
        connection = Unhurried()
        reader = ResponseReader(
            connection, asyncio.get_running_loop(), lambda head, body: bodies.append(body)
        )
        reader.feed(answer)
        early = len(segments) // 3
        for segment in segments[:early]:
            reader.feed(segment)
        reading = asyncio.ensure_future(bodies[0].read())
        await asyncio.sleep(0)
        is_filled = length - bodies[0].total_bytes >= FILLED_BYTES
        at = 0
        for segment in segments[early:]:
            if not is_filled or reader.is_done:
                reader.feed(segment)
                continue
            taken = min(len(segment), len(connection.memory) - at)
            connection.memory[at : at + taken] = segment[:taken]
            at += taken
            reader.filled(taken)
        assert (await reading, reader.is_done, reader.left_bytes) == (content, True, 0)
        assert reader.has_surplus == bool(more)

    asyncio.run(scenario())
