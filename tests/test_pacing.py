"""The limit on bytes per second: kept by all workers together, and used."""

from __future__ import annotations

import asyncio
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

import turbo_fetch
from album import encoded
from jobs import job_spec, write_list
from loops import LOOPS, run_on
from origin import Origin
from turbo_fetch.fetch.pacing import BURST_S, PacedBudget, requests_at_once
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import HttpSpec


class Notes(ProgressListener):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("loop", LOOPS)
def test_readers_get_what_the_rate_allows_and_no_more(loop: str) -> None:
    rate, chunk, readers = 2_000_000, 20_000, 10

    async def read(budget: PacedBudget, spent: list[tuple[float, int]]) -> None:
        await budget.room()
        reader = budget.reader()
        for size in range(chunk, 200_001, chunk):
            await reader.turn()
            reader.charge_up_to(size)
            spent.append((time.monotonic(), chunk))
        reader.abandon()

    async def scenario() -> list[tuple[float, int]]:
        budget, spent = PacedBudget(100_000_000), [(time.monotonic(), 0)]
        async with asyncio.TaskGroup() as tasks:
            for _ in range(readers):
                tasks.create_task(read(budget, spent))
            await asyncio.sleep(0)
            assert len(spent) == 1
            budget.set_rate(rate)
        return spent

    spent = run_on(loop, scenario())
    begun_s = spent[0][0]
    for (at_s, _), total in zip(spent, accumulate(count for _, count in spent), strict=True):
        assert total <= (at_s - begun_s + BURST_S) * rate + chunk
    assert sum(count for _, count in spent) == readers * 200_000


def test_what_is_read_from_this_machine_costs_nothing() -> None:
    budget = PacedBudget(1_000_000)
    budget.set_rate(1000.0)
    budget.local_reader().charge_up_to(500_000)
    assert budget.has_room
    budget.reader().charge_up_to(1000)
    assert not budget.has_room


@pytest.mark.parametrize(("mbps", "requests"), [(None, 256), (0.01, 2), (8, 20), (1000, 256)])
def test_few_requests_are_in_flight_where_little_may_come(mbps: float | None, requests: int) -> None:
    assert requests_at_once(HttpSpec(max_mbps=mbps)) == requests


def test_all_workers_together_keep_to_the_limit_and_use_it(tmp_path: Path) -> None:
    pictures = {f"{n}.jpg": encoded(400, 300, n, quality=95) for n in range(40)}
    total = sum(map(len, pictures.values()))
    mbps = total * 8 / 1e6 / 3
    with Origin(pictures) as origin:
        urls = write_list(tmp_path / "list.parquet", [origin.url(name) for name in pictures])
        changes: dict[str, Any] = {
            "http": {"max_mbps": mbps},
            "output": {"samples_per_shard": 10},
            "engine": {"workers": 2, "threads": 1},
        }
        heard = Notes()
        summary = turbo_fetch.run(job_spec(urls, tmp_path / "out", **changes), listener=heard)
    assert summary.fetch.outcomes == {"success": 40}
    assert any(f"at most {mbps:g} Mbit/s" in note for note in heard.notes)
    assert summary.fetch.wall_s > 2
