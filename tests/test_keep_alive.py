"""Bytes of one answer are never taken for another's: hosts that send more than they were asked for."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fetching import LIMITS, fetch
from loops import run_on
from raw_origin import Pause, RawOrigin, Script
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.connections import PROOFS, ReuseHistory
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec


def answer(body: bytes, line: bytes = b"HTTP/1.1 200 OK", headers: bytes = b"") -> bytes:
    return line + b"\r\nContent-Length: %d\r\n" % len(body) + headers + b"\r\n" + body


WRONG = answer(b"a wrong image")
ASKED = {
    "body": answer(b"asked for"),
    "large body": answer(b"asked for" * 10_000),
    "304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "404": answer(b"none", b"HTTP/1.1 404 Not Found"),
    "redirect": answer(b"moved", b"HTTP/1.1 302 Found", b"Location: /good0.jpg\r\n"),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nasked\r\n0\r\n\r\n",
}
UNASKED = {"an answer": WRONG, "half an answer": WRONG[:30], "no answer": b"<html>", "an empty line": b"\r\n"}
WHEN_S = {"joined": None, "at once": 0.0, "20 ms": 0.02, "60 ms": 0.06, "200 ms": 0.2}
GOOD = {f"/good{number}.jpg": [answer(b"good %d" % number)] for number in range(24)}
REPEATS = 12


def script(asked: bytes, unasked: bytes, when_s: float | None) -> Script:
    return [asked + unasked] if when_s is None else [asked, Pause(when_s), unasked]


def fetch_side_by_side(origin: RawOrigin, targets: list[str], workers: int) -> dict[str, list[Fetched]]:
    """Get targets in order, a few at a time, as conditional requests."""
    waiting = iter(targets)
    results: dict[str, list[Fetched]] = {}
    client_of_test = Client(HttpSpec(**LIMITS), ByteBudget(10_000_000))

    async def work(client: Client) -> None:
        for target in waiting:
            fetched = await client.get(origin.url(target), {"If-None-Match": '"v1"'})
            results.setdefault(target, []).append(fetched)

    async def all_of_them() -> None:
        async with client_of_test as client:
            await asyncio.gather(*(work(client) for _ in range(workers)))

    run_on("uvloop", all_of_them())
    return results


@pytest.mark.parametrize("when", WHEN_S)
@pytest.mark.parametrize("asked", ASKED)
def test_good_neighbours_of_a_host_that_sends_unasked_bytes_get_their_own_images(
    asked: str, when: str
) -> None:
    bad = {
        f"/bad{number}.jpg": script(ASKED[asked], unasked, WHEN_S[when])
        for number, unasked in enumerate(UNASKED.values())
    }
    pairs = zip(itertools.cycle(bad), list(GOOD) * 2, strict=False)
    with RawOrigin(bad | GOOD) as origin:
        results = fetch_side_by_side(origin, [target for pair in pairs for target in pair], workers=4)
    for number, target in enumerate(GOOD):
        assert [one.body for one in results[target]] == [b"good %d" % number] * 2
    ends = {
        (one.outcome, None if one.body is None else bytes(one.body))
        for target in bad
        for one in results[target]
    }
    expected = {
        "body": (Outcome.SUCCESS, b"asked for"),
        "large body": (Outcome.SUCCESS, b"asked for" * 10_000),
        "304": (Outcome.SUCCESS, None),
        "204": (Outcome.SUCCESS, b""),
        "404": (Outcome.HTTP_4XX, None),
        "redirect": (Outcome.SUCCESS, b"good 0"),
        "chunked": (Outcome.SUCCESS, b"asked"),
    }
    assert ends == {expected[asked]}


@pytest.mark.parametrize("asked", ["body", "large body"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_host_that_has_sent_unasked_bytes_gets_no_second_request_on_a_connection(
    loop: str, asked: str
) -> None:
    with RawOrigin({"/bad.jpg": script(ASKED[asked], WRONG, None), **GOOD}) as origin:
        fetched = fetch(loop, origin.url("/bad.jpg"), *map(origin.url, GOOD))
        assert origin.connections == len(fetched)


@settings(deadline=None)
@given(silent=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([200, 404])), max_size=80))
def test_a_host_is_trusted_for_a_status_after_enough_silence(silent: list[tuple[str, int]]) -> None:
    record = ReuseHistory()
    for host, status in silent:
        assert record.begin_probation(host, status)
        record.end_probation(host, status, was_silent=True)
    for key in itertools.product("ab", [200, 404]):
        assert record.is_trusted(*key) == (silent.count(key) >= PROOFS)


def test_no_more_connections_of_a_host_are_on_probation_than_are_needed_to_trust_it() -> None:
    record = ReuseHistory()
    assert [record.begin_probation("a", 200) for _ in range(PROOFS + 1)] == [True] * PROOFS + [False]
    record.end_probation("a", 200, was_silent=False)
    assert record.begin_probation("a", 200)


def test_of_too_many_hosts_the_longest_unseen_is_forgotten() -> None:
    record = ReuseHistory(max_hosts=2)
    for host in "abc":
        record.use_once(host)
    assert [record.is_single_use(host) for host in "abc"] == [False, True, True]
