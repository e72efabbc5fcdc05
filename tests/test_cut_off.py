"""A worker that is cut off from its driver, but not from the web, starts nothing, for its permits go to others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import uvloop

from album import album
from jobs import job_spec, write_list
from origin import Origin
from processes import PATIENCE_S
from turbo_fetch.dataset.attempts import light_beacon, new_attempt
from turbo_fetch.dataset.place import open_place
from turbo_fetch.plan.sharder import Plan
from turbo_fetch.progress.tally import Tally
from turbo_fetch.runners.document_cache import IN_MEMORY
from turbo_fetch.runners.messages import Alive, NoMoreShards, Setup, ShardDone, WantShard
from turbo_fetch.runners.supervisor import Supervisor
from turbo_fetch.runners.worker import work
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import HttpSpec

ROWS = 200


def test_a_worker_that_hears_nothing_starts_nothing_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turbo_fetch.runners.worker.CUT_OFF_S", 1.0)
    names = album(1, side=32)
    with Origin(names, latency_s=0.2) as origin:
        (name,) = names
        urls = write_list(tmp_path / "list.parquet", [f"{origin.url(name)}?{row}" for row in range(ROWS)])
        spec = job_spec(
            urls, tmp_path / "out", http={"concurrency": 4}, output={"samples_per_shard": ROWS}
        ).fetch
        assert spec is not None
        attempt = new_attempt(light_beacon(open_place(spec.output.path, spec.output.spool)))
        setup = Setup(spec, 1, shares_limits=False, attempt=attempt)
        driver, channel = Pipe()
        thread = threading.Thread(target=lambda: uvloop.run(work(channel, setup, lambda _: None)))
        thread.start()

        def heard(wanted: Callable[[Any], bool]) -> Any:
            return next(filter(wanted, iter(driver.recv, None)))

        (shard,) = Plan.of(spec.input, ROWS).shards(0)
        heard(lambda message: isinstance(message, WantShard))
        driver.send(ShardTask(shard))
        heard(lambda message: isinstance(message, Tally) and message.in_flight > 0)
        heard(lambda message: isinstance(message, Tally) and message.in_flight == 0)
        asked = origin.hits.total()
        assert asked < ROWS
        for _ in range(3):
            heard(lambda message: isinstance(message, Tally))
        assert origin.hits.total() == asked
        monkeypatch.setattr("turbo_fetch.runners.worker.CUT_OFF_S", 60.0)
        driver.send(Alive())
        done = heard(lambda message: isinstance(message, ShardDone))
        assert done.record["outcomes"] == {"success": ROWS}
        assert origin.hits.total() == ROWS
        driver.send(NoMoreShards())
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        driver.close()
        channel.close()


def test_every_worker_hears_from_its_driver() -> None:
    class Nobody:
        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_: None

    supervisor = Supervisor(iter(()), Nobody(), HttpSpec(), Path(IN_MEMORY))
    supervisor.started(3)
    supervisor.started(5)
    assert [each for each in supervisor.pending_messages() if isinstance(each[1], Alive)] == [
        (3, Alive()),
        (5, Alive()),
    ]


def test_workers_hear_at_once_who_answered_another_one_and_so_does_the_next_run(tmp_path: Path) -> None:
    class Nobody:
        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_: None

    def greetings(supervisor: Supervisor) -> list[tuple[int, Alive]]:
        return [each for each in supervisor.pending_messages() if isinstance(each[1], Alive)]  # type: ignore[misc]

    supervisor = Supervisor(iter(()), Nobody(), HttpSpec(), tmp_path / "documents")
    supervisor.started(3)
    supervisor.started(5)
    assert greetings(supervisor) == [(3, Alive()), (5, Alive())]
    hosts = {f"{number}.example": f"http://{number}.example" for number in range(4)}
    supervisor.take(3, Tally(answered=hosts))
    assert greetings(supervisor) == [(3, Alive(hosts)), (5, Alive(hosts))]
    supervisor.close()
    again = Supervisor(iter(()), Nobody(), HttpSpec(), tmp_path / "documents")
    again.started(0)
    assert greetings(again) == [(0, Alive(hosts))]
    again.close()
