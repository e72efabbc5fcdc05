"""Gets addresses with a client of their own, for tests of single requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from loops import run_on
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.connections import PROBATION_S
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

BODY = bytes(range(256)) * 1200
PATH = "an image.jpg"
LIMITS: dict[str, Any] = {
    "allow_private_addresses": True,
    "robots": "ignore",
    "timeout_s": 5,
    "stall_timeout_s": 5,
    "max_body_mb": 1,
}


def fetch(loop: str, *urls: str, **http: Any) -> list[Fetched]:
    """Get addresses one after the other; check that the budget is charged for just the bodies returned."""
    return fetch_in_turns(loop, [urls], **http)


def fetch_in_turns(loop: str, turns: Sequence[Sequence[str]], **http: Any) -> list[Fetched]:
    """Get addresses one after the other; before each turn but the first all connections have rested."""
    client_of_test = Client(HttpSpec(**{**LIMITS, **http}), ByteBudget(10_000_000))

    async def get_all() -> list[Fetched]:
        fetched = []
        async with client_of_test as client:
            for number, urls in enumerate(turns):
                if number > 0:
                    await asyncio.sleep(1.5 * PROBATION_S)
                fetched += [await client.get(url) for url in urls]
        return fetched

    fetched = run_on(loop, get_all())
    assert client_of_test.budget.used_bytes == sum(len(one.body or b"") for one in fetched)
    assert all((one.outcome is Outcome.SUCCESS) == (one.body is not None) for one in fetched)
    return fetched


async def arrived(budget: ByteBudget, count: int = 1) -> None:
    """Wait until so many bytes of bodies are charged."""
    while budget.used_bytes < count:  # noqa: ASYNC110 - the budget tells only when bytes go
        await asyncio.sleep(0.001)
