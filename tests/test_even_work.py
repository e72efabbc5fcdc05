"""Every worker does its share, though the first one to come has room for all shards; nothing is lost or doubled."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from album import album
from jobs import content_hashes, job_spec, ledger, manifest, start, undisturbed, wait_for_hits, write_list
from origin import Origin
from processes import descendants, finished, kill
from shares import Shares, are_even
from turbo_fetch.plan.sharder import Plan
from turbo_fetch.runners.local import LocalRunner
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.spec import EngineSpec, Spec
from turbo_fetch.stop import StopRequest

SHARDS, ROWS = 60, 20
ALBUM = album(SHARDS * ROWS, side=32)
BUSY = {"per_domain": 12, "concurrency": 64, "timeout_s": 500, "stall_timeout_s": 500}
"""A domain that is asked by fewer than there is room for, so that a worker has time for all of its rows."""


def _spec(urls: Path, output: Path, **engine: Any) -> Spec:
    engine = {"workers": 3, "threads": 1, **engine}
    return job_spec(urls, output, http=BUSY, output={"samples_per_shard": ROWS}, engine=engine)


def test_three_workers_do_a_third_each(tmp_path: Path) -> None:
    with Origin(ALBUM, latency_s=0.06) as origin, ExitStack() as begun:
        # One that came when the others are through would have nothing to do.
        begun.enter_context(origin.holding_after(0))
        # Rows that need no request belong to whoever makes them last.
        bad = ["no address" if number % ROWS == 7 else origin.url(name) for number, name in enumerate(ALBUM)]
        spec = _spec(write_list(tmp_path / "list.parquet", bad), tmp_path / "out").fetch
        assert spec is not None

        def begin(shares: Shares) -> None:
            if len(shares.at_start) == 3:
                begun.close()

        shares = Shares(begin)
        runner = LocalRunner(spec, EngineSpec(workers=3, threads=1), shares, StopRequest())
        runner.run(map(ShardTask, Plan.of(spec.input, ROWS).shards(0)))
    assert sum(shares.rows.values()) == SHARDS * (ROWS - 1)
    last_to_come = list(shares.at_start)[-1]
    assert are_even(shares.since(last_to_come)), (shares.rows, shares.at_start)
    assert shares.shards == Counter(range(SHARDS))
    assert shares.counted == SHARDS * ROWS
    assert origin.hits.total() == SHARDS * (ROWS - 1)
    assert not list((tmp_path / "out").rglob("*.spool"))


@pytest.mark.parametrize("seed", range(3))
def test_workers_killed_while_shards_change_hands_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    with Origin(ALBUM, latency_s=0.03) as origin:
        urls, expected = undisturbed(
            tmp_path, origin, ALBUM, lambda urls, output: _spec(urls, output, workers=1)
        )
        process = start(_spec(urls, tmp_path / "shared"), tmp_path)
        # The first requests are those of the worker that has all shards; the others come for theirs now.
        wait_for_hits(process, origin, 5 + 15 * seed)
        for number in range(2):
            workers = descendants(process, "turbo_fetch.runners")
            kill(workers[(seed + number) % len(workers)])
            wait_for_hits(process, origin, 60)
        _, err = finished(process)
    assert process.returncode == 0, err
    assert content_hashes(tmp_path / "shared") == expected
    assert Counter(record["shard"] for record in manifest(tmp_path / "shared")) == Counter(range(SHARDS))
    assert len(ledger(tmp_path / "shared")) == SHARDS * ROWS
