"""Every odd server behaviour of :mod:`oddities`, one after the other and all at once, each with its own end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pyarrow as pa
import pytest

from fetching import LIMITS, fetch
from loops import run_on
from oddities import Oddity, head, oddities
from raw_origin import RawOrigin
from sample_images import encoded, scene
from turbo_fetch._native import parse_urls
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

PICTURE = encoded(scene(64, 48), "jpeg")
ODDITIES = oddities(PICTURE)
GOOD = "/good.jpg"


@pytest.fixture(scope="module")
def origin() -> Iterator[RawOrigin]:
    scripts = {target: script for oddity in ODDITIES for target, script in oddity.scripts.items()}
    with RawOrigin({GOOD: [head(b"Content-Length: 16") + b"a good neighbour"], **scripts}) as server:
        yield server


def normalised(origin: RawOrigin, oddity: Oddity) -> str:
    """Return the address as the reader of a list makes it of what the list says."""
    parsed = pa.record_batch(parse_urls(pa.array([origin.url(oddity.target)])))
    address: str = parsed.column("normalised")[0].as_py()
    return address


@pytest.mark.parametrize("oddity", ODDITIES, ids=lambda oddity: f"{oddity.kind}: {oddity.name}")
def test_an_odd_server_gives_its_image_or_a_reason(origin: RawOrigin, oddity: Oddity) -> None:
    loop = random.Random(oddity.name).choice(["uvloop", "asyncio"])
    (fetched,) = fetch(loop, normalised(origin, oddity), timeout_s=10)
    if oddity.failure is None:
        assert (fetched.outcome, fetched.detail) == (Outcome.SUCCESS, None)
        assert fetched.body == PICTURE
    else:
        assert (fetched.outcome, fetched.detail) == oddity.failure


def test_odd_servers_side_by_side_harm_neither_each_other_nor_their_neighbours(origin: RawOrigin) -> None:
    """All on one host and over one client, where connections might be used again."""
    numbers = [*range(len(ODDITIES)), *[-1] * len(ODDITIES)]
    random.Random(7).shuffle(numbers)
    waiting = iter(numbers)
    ends: list[tuple[int, Fetched]] = []
    http = HttpSpec(**{**LIMITS, "timeout_s": 15, "stall_timeout_s": 15})

    async def work(client: Client) -> None:
        for number in waiting:
            url = origin.url(GOOD) if number < 0 else normalised(origin, ODDITIES[number])
            ends.append((number, await client.get(url)))

    async def all_of_them() -> None:
        async with Client(http, ByteBudget(10_000_000)) as client:
            await asyncio.gather(*(work(client) for _ in range(16)))

    run_on("uvloop", all_of_them())
    for number, fetched in ends:
        if number < 0:
            assert fetched.body == b"a good neighbour"
        elif ODDITIES[number].failure is None:
            assert fetched.body == PICTURE, ODDITIES[number].name
        else:
            assert (fetched.outcome, fetched.detail) == ODDITIES[number].failure
