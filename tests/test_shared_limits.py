"""The limits of domains hold for all workers of a run together, as the server sees it, and are made use of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import turbo_fetch
from album import album
from attack.pace import TICK_S
from jobs import amid, job_spec, ledger, start, wait_for_hits, waiting_for, write_list
from origin import Origin
from processes import descendants, finished, kill
from turbo_fetch.fetch.breaker import FAILURES_TO_OPEN, TRIALS_TO_WAIT_FOR
from turbo_fetch.fetch.domains import REFUSALS_TO_COOL_DOWN
from turbo_fetch.progress.summary import Summary
from turbo_fetch.runners.worker import MAX_OPEN_SHARDS
from turbo_fetch.spec import Spec

ALBUM = album(MAX_OPEN_SHARDS + 26, side=64)
POLITE = {"per_domain": 8, "robots": "respect", "concurrency": 32, "retries": 4}


def _spec(
    origin: Origin, folder: Path, engine: dict[str, Any], rows: int = len(ALBUM), shards: int = 6, **http: Any
) -> Spec:
    urls = write_list(folder / "list.parquet", [origin.url(name) for name in list(ALBUM)[:rows]])
    output = {"samples_per_shard": rows // shards}
    return job_spec(urls, folder / "out", http={**POLITE, **http}, output=output, engine=engine)


def _check_pace(origin: Origin, output: Path, delay_s: float = 0.4) -> list[float]:
    """Check that images were asked for at a distance, and return the seconds between requests as they arrived.

    A request arrives late where a connection has to be opened first, or the machine is busy, and the next one may be on
    time. How late it can have been, the client says: it began first_byte_ms before the server's answer at most.
    """
    took_s = {row["final_url"]: row["first_byte_ms"] / 1000 for row in ledger(output)}
    images = [one for one in origin.received if one.target != "/robots.txt"]
    assert len(images) == len(took_s)
    gaps_s = []
    for earlier, later in pairwise(images):
        gaps_s.append(later.at_s - earlier.at_s)
        assert gaps_s[-1] + took_s[origin.url(earlier.target[1:])] > delay_s - TICK_S
    return gaps_s


def test_workers_hear_from_each_other_that_a_server_is_to_be_left_alone(tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        refused = [origin.url(name, "status", code=429, retry_after=60) for name in ALBUM]
        urls = write_list(tmp_path / "list.parquet", refused)
        spec = job_spec(
            urls,
            tmp_path / "out",
            http={"per_domain": 1},
            output={"samples_per_shard": 15},
            engine={"workers": 3, "threads": 1},
        )
        assert turbo_fetch.run(spec).fetch.outcomes == {"rate-limited": len(ALBUM)}
    assert origin.hits.total() == REFUSALS_TO_COOL_DOWN


def test_workers_hear_from_each_other_that_a_host_is_dead(tmp_path: Path) -> None:
    with Origin(ALBUM) as origin:
        urls = write_list(
            tmp_path / "list.parquet", [origin.url(name, "close_before_headers") for name in ALBUM]
        )
        limits = {"per_domain": 1, "retries": 0}
        engine = {"workers": 3, "threads": 1}
        spec = job_spec(urls, tmp_path / "out", http=limits, output={"samples_per_shard": 15}, engine=engine)
        turbo_fetch.run(spec)
    # aiohttp repeats a request whose connection ends without a response; then one trial of each worker, twice.
    assert FAILURES_TO_OPEN <= origin.hits.total() <= 2 * (FAILURES_TO_OPEN + 3 * TRIALS_TO_WAIT_FOR) + 8


@pytest.mark.parametrize("per_domain", [1, 2, 8])
def test_local_workers_share_the_limit_of_a_domain_and_use_all_of_it(tmp_path: Path, per_domain: int) -> None:
    with Origin(ALBUM, latency_s=0.05 * per_domain) as origin:
        # More than one worker may have open, so that the first to start cannot take all of them.
        engine = {"workers": 3, "threads": 1}
        patient = {"timeout_s": 500, "stall_timeout_s": 500}
        spec = _spec(origin, tmp_path, engine, shards=len(ALBUM), per_domain=per_domain, **patient)
        # Nor can it do them all before another one is there.
        with waiting_for(3, origin) as listener:
            summary = turbo_fetch.run(spec, listener).fetch
    assert summary.successes == len(ALBUM)
    assert list(origin.load.by_host_most.values()) == [per_domain]
    assert origin.connections >= 2


def test_the_permits_of_a_killed_worker_come_back(tmp_path: Path) -> None:
    with Origin(ALBUM, latency_s=0.3) as origin:
        process = start(_spec(origin, tmp_path, {"workers": 2, "threads": 1}), tmp_path)
        with amid(process, origin, 20):
            kill(descendants(process, "turbo_fetch.runners")[0])
        # More than are in flight: none of these is of the dead worker, whose requests the origin answers to the end.
        wait_for_hits(process, origin, 17)
        origin.load.by_host_most.clear()
        _, err = finished(process)
        assert process.returncode == 0, err
        assert "was ended by SIGKILL" in err
    assert list(origin.load.by_host_most.values()) == [8]
    assert len(ledger(tmp_path / "out")) == len(ALBUM)


def test_a_crawl_delay_is_kept_by_local_workers_together(tmp_path: Path) -> None:
    images = {**ALBUM, "robots.txt": b"User-agent: *\nCrawl-delay: 0.4"}
    with Origin(images) as origin:
        turbo_fetch.run(_spec(origin, tmp_path, {"workers": 3, "threads": 1}, rows=12))
    gaps_s = _check_pace(origin, tmp_path / "out")
    assert sorted(gaps_s)[len(gaps_s) // 2] < 0.8, "every other turn was left out"


@contextmanager
def _moved(
    pictures: Mapping[str, bytes], target: Origin, fault: str | None = None, **how: Any
) -> Iterator[list[str]]:
    """Yield addresses at three hosts, which send whoever asks for a picture to the target."""
    with ExitStack() as stack:
        hosts = [stack.enter_context(Origin(pictures, address=f"127.0.0.{number}")) for number in (2, 3, 4)]
        yield [
            hosts[number % 3].url(name, "redirect_to", to=target.url(name, fault, **how))
            for number, name in enumerate(pictures)
        ]


def _run_list(addresses: list[str], folder: Path, workers: int, **http: Any) -> Summary:
    urls = write_list(folder / "list.parquet", addresses)
    engine = {"workers": workers, "threads": 1}
    output = {"samples_per_shard": max(1, len(addresses) // 9)}
    spec = job_spec(urls, folder / "out", http={**POLITE, **http}, output=output, engine=engine)
    return turbo_fetch.run(spec).fetch


@pytest.mark.parametrize("workers", [1, 3])
def test_a_redirect_counts_for_the_domain_to_which_it_leads(tmp_path: Path, workers: int) -> None:
    with Origin(ALBUM, latency_s=0.05) as target, _moved(ALBUM, target) as addresses:
        summary = _run_list(addresses, tmp_path, workers, per_domain=4)
    assert summary.successes == len(ALBUM)
    assert list(target.load.by_host_most.values()) == [4]
    assert target.hits["/robots.txt"] == 1
    assert {len(row["redirects"]) for row in ledger(tmp_path / "out")} == {1}


def test_a_redirect_obeys_the_crawl_delay_of_the_domain_to_which_it_leads(tmp_path: Path) -> None:
    few = dict(list(ALBUM.items())[:9])
    with (
        Origin({**few, "robots.txt": b"User-agent: *\nCrawl-delay: 0.4"}) as target,
        _moved(few, target) as addresses,
    ):
        assert _run_list(addresses, tmp_path, 3).successes == len(few)
    _check_pace(target, tmp_path / "out")


def test_a_redirect_leaves_alone_whom_it_leads_to_and_blames_nobody_else(tmp_path: Path) -> None:
    with (
        Origin(ALBUM) as target,
        Origin(ALBUM, address="127.0.0.2") as sender,
    ):
        there = [target.url(name, "status", code=429, retry_after=60) for name in ALBUM]
        sent = [sender.url(name, "redirect_to", to=to) for name, to in zip(ALBUM, there, strict=True)]
        own = [sender.url(name) for name in ALBUM]
        addresses = [address for pair in zip(sent, own, strict=True) for address in pair]
        summary = _run_list(addresses, tmp_path, 1, per_domain=1, robots="ignore")
    assert summary.outcomes == {"rate-limited": len(ALBUM), "success": len(ALBUM)}
    assert target.hits.total() == REFUSALS_TO_COOL_DOWN


def test_a_host_to_which_redirects_lead_and_that_is_dead_is_given_up_alone(tmp_path: Path) -> None:
    with Origin({}) as target:
        gone = target.url("gone.jpg")
    with Origin(ALBUM, address="127.0.0.2") as sender:
        addresses = [sender.url(name, "redirect_to", to=f"{gone}?{name}") for name in ALBUM]
        addresses += [sender.url(name) for name in ALBUM]
        summary = _run_list(addresses, tmp_path, 1, retries=0, robots="ignore")
    assert summary.outcomes["success"] == len(ALBUM)
    failed = [row for row in ledger(tmp_path / "out") if row["outcome"] == "connect"]
    assert len(failed) == len(ALBUM)
    assert sum("the host was given up" in row["detail"] for row in failed) > len(ALBUM) // 2
