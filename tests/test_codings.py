"""Packed bodies: what is undone, and how much of it at once."""

from __future__ import annotations

import contextlib
import functools
import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fetching import fetch
from oddities import head
from raw_origin import RawOrigin
from turbo_fetch.fetch.codings import PIECE_BYTES, CodingError, Unpacker, is_picture
from turbo_fetch.outcomes import Outcome


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": functools.partial(brotli.compress, quality=4),
    "zstd": zstandard.ZstdCompressor().compress,
}
MOST_AT_ONCE_BYTES = 64 * 131_072
"""What a slice of zstd's blocks may give out."""


def unpack(codings: tuple[str, ...], data: bytes, step: int, most_bytes: int = 10**9) -> bytes:
    unpacker = Unpacker(codings)
    result = bytearray()
    for at in [*range(0, len(data), step), len(data)]:
        for piece in unpacker.decode(data[at : at + step], is_last=at >= len(data)):
            assert len(piece) <= (MOST_AT_ONCE_BYTES if "zstd" in codings else 2 * PIECE_BYTES)
            result += piece
            if len(result) > most_bytes:
                return bytes(result)
    return bytes(result)


@settings(deadline=None)
@given(
    st.binary(max_size=2000) | st.binary(min_size=1, max_size=50).map(lambda data: data * 9000),
    st.lists(st.sampled_from(sorted(PACKERS)), min_size=1, max_size=3),
    st.integers(1, 5000),
)
def test_what_is_packed_is_unpacked_whatever_the_segments(data: bytes, codings: list[str], step: int) -> None:
    packed = data
    for coding in codings:
        packed = PACKERS[coding](packed)
    if not is_picture(packed):
        assert unpack(tuple(codings), packed, max(step, len(packed) // 200)) == data


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=5000), st.integers(1, 5000))
def test_deflate_without_a_wrapping_is_unpacked(data: bytes, step: int) -> None:
    assert unpack(("deflate",), raw_deflate(data), step) == data


@pytest.mark.parametrize("coding", PACKERS)
@settings(deadline=None)
@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_unpacked_or_refused(coding: str, data: bytes) -> None:
    with contextlib.suppress(CodingError):
        unpack((coding,), data, 100)


@pytest.mark.parametrize("coding", PACKERS)
def test_a_bomb_gives_out_a_piece_at_a_time(coding: str) -> None:
    bomb = PACKERS[coding](bytes(20_000_000))
    assert len(unpack((coding,), bomb, len(bomb), 1_000_000)) < 1_000_001 + MOST_AT_ONCE_BYTES
    twice = PACKERS[coding](bomb)
    assert len(unpack((coding, coding), twice, len(twice), 1_000_000)) < 1_000_001 + MOST_AT_ONCE_BYTES


def test_a_bomb_that_gives_out_nothing_is_too_large() -> None:
    """A stored block of no bytes is five bytes that unpack to none, however often it comes."""
    nothing = zlib.compress(b"")[:2] + b"\0\0\0\xff\xff" * 2_000_000
    packed = gzip.compress(nothing, 9)
    assert len(packed) < 50_000
    silent = [head(b"Content-Encoding: deflate, gzip", b"Content-Length: %d" % len(packed)) + packed]
    endless = [head(b"Content-Encoding: deflate") + nothing]
    with RawOrigin({"/silent.jpg": silent, "/endless.jpg": endless}) as origin:
        fetched = fetch("uvloop", origin.url("/silent.jpg"), origin.url("/endless.jpg"))
    assert [one.outcome for one in fetched] == [Outcome.TOO_LARGE] * 2


@pytest.mark.parametrize("coding", PACKERS)
def test_a_body_that_ends_in_its_packing_is_not_whole(coding: str) -> None:
    packed = PACKERS[coding](bytes(range(256)) * 40)
    with pytest.raises(CodingError):
        unpack((coding,), packed[: len(packed) // 2], 100)


@pytest.mark.parametrize(("coding", "trailer"), [("gzip", 8), ("deflate", 4)])
@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("data", [b"", b"a picture" * 40_000], ids=["empty", "long"])
def test_a_checksum_at_the_end_may_be_missing_but_not_wrong(
    coding: str, trailer: int, step: int, data: bytes
) -> None:
    packed = PACKERS[coding](data)
    for missing in range(1, trailer + 1):
        assert unpack((coding,), packed[:-missing], step) == data
        if missing < trailer:
            wrong = packed[: -missing - 1] + bytes([packed[-missing - 1] ^ 1])
            with pytest.raises(CodingError):
                unpack((coding,), wrong, step)
    with pytest.raises(CodingError):
        unpack((coding,), packed[: -trailer - 1], step)


def test_a_second_member_that_lacks_its_checksum_is_whole() -> None:
    packed = gzip.compress(b"one") + gzip.compress(b"two")
    assert unpack(("gzip",), packed[:-8], 5) == b"onetwo"


def test_no_more_than_four_codings_are_undone() -> None:
    with pytest.raises(CodingError, match="more than 4 codings"):
        unpack(("gzip",) * 5, b"x" * 40, 40)


@pytest.mark.parametrize("coding", ["gzip", "br", "no such coding"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_a_robots_txt_is_obeyed_however_it_is_packed(coding: str, is_packed: bool) -> None:
    rules = b"User-agent: *\nDisallow: /no\n"
    body = PACKERS[coding](rules) if is_packed and coding in PACKERS else rules
    answer = head(b"Content-Encoding: " + coding.encode(), b"Content-Length: %d" % len(body)) + body
    image = [head(b"Content-Length: 1") + b"x"]
    with RawOrigin({"/robots.txt": [answer], "/no.jpg": image, "/yes.jpg": image}) as origin:
        forbidden, allowed = fetch("uvloop", *map(origin.url, ["/no.jpg", "/yes.jpg"]), robots="respect")
    assert (forbidden.outcome, allowed.outcome) == (Outcome.ROBOTS, Outcome.SUCCESS)
