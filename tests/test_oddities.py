"""Every odd server behaviour of :mod:`oddities`, one after the other and all at once, each with its own end."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pyarrow as pa
import pytest

from fetching import fetch
from oddities import Oddity, oddities
from pictures import encoded, scene
from raw_origin import RawOrigin
from turbo_fetch._native import parse_urls
from turbo_fetch.outcomes import Outcome

PICTURE = encoded(scene(64, 48), "jpeg")
ODDITIES = oddities(PICTURE)


@pytest.fixture(scope="module")
def origin() -> Iterator[RawOrigin]:
    with RawOrigin(
        {target: script for oddity in ODDITIES for target, script in oddity.scripts.items()}
    ) as server:
        yield server


def normalised(origin: RawOrigin, oddity: Oddity) -> str:
    """Return the address as the reader of a list makes it of what the list says."""
    parsed = pa.record_batch(parse_urls(pa.array([origin.url(oddity.target)])))
    address: str = parsed.column("normalised")[0].as_py()
    return address


@pytest.mark.parametrize("oddity", ODDITIES, ids=lambda oddity: f"{oddity.kind}: {oddity.name}")
def test_an_odd_server_gives_its_picture_or_a_reason(origin: RawOrigin, oddity: Oddity) -> None:
    loop = random.Random(oddity.name).choice(["uvloop", "asyncio"])
    (fetched,) = fetch(loop, normalised(origin, oddity), timeout_s=10)
    if oddity.failure is None:
        assert (fetched.outcome, fetched.detail) == (Outcome.SUCCESS, None)
        assert fetched.body == PICTURE
    else:
        assert (fetched.outcome, fetched.detail) == oddity.failure
