from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loops import LOOPS, run_on
from processes import PATIENCE_S
from turbo_fetch.fetch.budget import BodyReader, ByteBudget


@dataclass
class Traffic:
    """A simulation: readers of bodies in chunks, and a transform that releases finished bodies in batches."""

    budget: ByteBudget
    held: deque[int]
    most_bytes: int = 0
    finished: int = 0

    async def body(self, chunks: list[int], fails: bool, domain: str) -> None:
        await self.budget.room()
        reader = self.budget.reader(domain)
        for size in accumulate(chunks):
            reader.charge_up_to(size)
            self.most_bytes = max(self.most_bytes, self.budget.used_bytes)
            await asyncio.sleep(0)
            await reader.turn()
        self.finished += 1
        if fails:
            reader.abandon()
        else:
            reader.finish(sum(chunks))
            self.held.append(sum(chunks))

    async def transform(self, bodies: int, batch: int) -> None:
        while self.finished < bodies or self.held:
            await asyncio.sleep(0)
            if len(self.held) >= batch or self.finished == bodies or not self.budget.has_room:
                for _ in range(min(batch, len(self.held))):
                    self.budget.release(self.held.popleft())


bodies = st.lists(
    st.tuples(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.booleans(), st.sampled_from("abc")),
    min_size=1,
    max_size=30,
)


@given(bodies=bodies, limit=st.integers(1, 2000), batch=st.integers(1, 8))
def test_all_bodies_end_and_the_bound_holds(
    bodies: list[tuple[list[int], bool, str]], limit: int, batch: int
) -> None:
    async def simulate() -> Traffic:
        traffic = Traffic(ByteBudget(limit), deque())
        async with asyncio.TaskGroup() as tasks:
            for body in bodies:
                tasks.create_task(traffic.body(*body))
            tasks.create_task(traffic.transform(len(bodies), batch))
        return traffic

    traffic = asyncio.run(asyncio.wait_for(simulate(), PATIENCE_S))
    largest_body = max(sum(chunks) for chunks, *_ in bodies)
    one_chunk_each = sum(max(chunks) for chunks, *_ in bodies)
    assert traffic.budget.used_bytes == 0
    assert traffic.most_bytes <= limit + largest_body + one_chunk_each


@given(st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=30))
def test_used_bytes_are_those_charged_and_not_given_back(ends: list[tuple[int, bool]]) -> None:
    budget = ByteBudget(1000)
    kept = 0
    for count, is_kept in ends:
        reader = budget.reader()
        reader.charge_up_to(count)
        if is_kept:
            reader.finish(count)
            kept += count
        else:
            reader.abandon()
        assert budget.used_bytes == kept
    budget.release(kept)
    assert budget.used_bytes == 0


def filled(budget: ByteBudget, count: int, domain: str = "") -> BodyReader:
    reader = budget.reader(domain)
    reader.charge_up_to(count)
    return reader


def test_what_was_charged_in_advance_and_not_needed_is_given_back() -> None:
    budget = ByteBudget(1000)
    filled(budget, 500).finish(200)
    assert budget.used_bytes == 200


def test_over_the_limit_only_the_eldest_reader_goes_on() -> None:
    budget = ByteBudget(1000)
    eldest, second, third = (filled(budget, 400) for _ in range(3))
    assert [reader.may_read for reader in (eldest, second, third)] == [True, False, False]
    eldest.abandon()
    assert budget.used_bytes == 800
    assert [reader.may_read for reader in (second, third)] == [True, False]


def test_a_domain_that_never_ends_its_bodies_leaves_room_to_others() -> None:
    budget = ByteBudget(1000)
    hostile = [budget.reader("hostile") for _ in range(8)]
    for _ in range(100):
        for reader in hostile:
            if reader.may_read:
                reader.charge_up_to(reader.charged_bytes + 50)
    assert hostile[0].charged_bytes > 4000, "the eldest goes on"
    assert sum(reader.charged_bytes for reader in hostile[1:]) <= 500
    assert budget.has_room
    other = filled(budget, 200, "other")
    assert other.may_read
    other.finish(200)
    hostile[0].abandon()
    assert hostile[1].may_read


def test_the_eldest_waits_while_finished_bodies_fill_the_reserve() -> None:
    budget = ByteBudget(1000)
    filled(budget, 600).finish(600)
    reader = filled(budget, 400)
    assert not reader.may_read
    budget.release(600)
    assert reader.may_read


@pytest.mark.parametrize("loop", LOOPS)
def test_a_waiting_reader_goes_on_as_soon_as_bytes_are_released(loop: str) -> None:
    async def scenario() -> list[str]:
        budget = ByteBudget(1000)
        filled(budget, 900).finish(900)
        reader = filled(budget, 100)
        events = []

        async def wait() -> None:
            await reader.turn()
            events.append("turn")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wait())
            await asyncio.sleep(0)
            events.append("release")
            budget.release(900)
        return events

    assert run_on(loop, scenario()) == ["release", "turn"]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancelled_waiter_does_not_keep_others_from_waking(loop: str) -> None:
    async def scenario() -> bool:
        budget = ByteBudget(1000)
        filled(budget, 1000).finish(1000)
        cancelled, other = (asyncio.ensure_future(budget.room()) for _ in range(2))
        await asyncio.sleep(0)
        cancelled.cancel()
        budget.release(1000)
        await other
        return cancelled.cancelled()

    assert run_on(loop, scenario())
