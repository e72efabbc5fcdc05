from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from loops import LOOPS, run_on
from origin import Origin
from processes import wait_until
from turbo_fetch.fetch import hosts
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.pool import FetchPool
from turbo_fetch.fetch.request import Request
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

BODY = bytes(range(256)) * 400
LIMITS: dict[str, Any] = {
    "allow_private_addresses": True,
    "robots": "ignore",
    "timeout_s": 10,
    "backoff_s": 0.05,
    "concurrency": 32,
}


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin({f"{number}.jpg": BODY for number in range(500)}) as server:
        yield server


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Shard:
    """Rows that were submitted together, and how each of them ended."""

    def __init__(self, requests: Sequence[Request], budget: ByteBudget) -> None:
        self.requests = requests
        self.budget = budget
        self.ended: dict[int, Fetched] = {}
        self.whole = asyncio.Event()

    def done(self, row: int, fetched: Fetched) -> None:
        assert row not in self.ended
        self.ended[row] = fetched
        self.budget.release(len(fetched.body or b""))
        if len(self.ended) == len(self.requests):
            self.whole.set()

    @property
    def outcomes(self) -> set[Outcome]:
        return {fetched.outcome for fetched in self.ended.values()}


def run_shards(
    loop: str, *shards: Sequence[Request], memory_bytes: int = 10_000_000, **http: Any
) -> list[Shard]:
    """Fetch shards side by side, each submitted in its turn, until every row has ended."""
    spec = HttpSpec(**{**LIMITS, **http})
    budget = ByteBudget(memory_bytes)
    client_of_test = Client(spec, budget)

    async def fetch_all() -> list[Shard]:
        async with client_of_test as client:
            pool = FetchPool(client, spec, Random(7))
            running = asyncio.ensure_future(pool.run())
            opened = [Shard(requests, budget) for requests in shards]
            for shard in opened:
                pool.submit(shard.requests, shard.done)
            for shard in opened:
                await shard.whole.wait()
            assert (pool.in_flight, pool.ready, pool.parked, pool.delayed) == (0, 0, 0, 0)
            running.cancel()
            await asyncio.wait({running})
            assert running.cancelled()
        return opened

    shards_run = run_on(loop, fetch_all())
    assert budget.used_bytes == 0
    return shards_run


def rows(
    origin: Origin, numbers: range, fault: str | None = None, domain: str = "a", **parameters: object
) -> list[Request]:
    return [Request(row, origin.url(f"{row}.jpg", fault, **parameters), domain) for row in numbers]


def test_every_row_ends_once_with_its_body(loop: str, origin: Origin) -> None:
    first, second = run_shards(loop, rows(origin, range(300)), rows(origin, range(200), domain="b"))
    assert [len(first.ended), len(second.ended)] == [300, 200]
    assert all(fetched.body == BODY for shard in (first, second) for fetched in shard.ended.values())
    assert origin.hits.total() == 500


def test_slots_are_never_exceeded_and_all_are_used(loop: str) -> None:
    with Origin({f"{number}.jpg": BODY for number in range(200)}, latency_s=0.05) as origin:
        run_shards(loop, rows(origin, range(200)), concurrency=20, per_domain=0)
        assert origin.load.most == 20


def test_a_busy_domain_holds_no_slots_that_others_need(loop: str) -> None:
    with Origin({f"{number}.jpg": BODY for number in range(100)}, latency_s=0.05) as origin:
        slow = rows(origin, range(40), domain="slow")
        others = [Request(40 + row, origin.url(f"{row}.jpg"), f"other{row}") for row in range(30)]
        (shard,) = run_shards(loop, slow + others, concurrency=16, per_domain=2)
        order = list(shard.ended)
        assert max(order.index(40 + row) for row in range(30)) < 60


@pytest.mark.parametrize("per_domain", [1, 3])
def test_a_domain_never_has_more_requests_than_allowed(loop: str, per_domain: int) -> None:
    with Origin({f"{number}.jpg": BODY for number in range(24)}, latency_s=0.02) as origin:
        run_shards(loop, rows(origin, range(24)), per_domain=per_domain)
        assert origin.load.most == per_domain


def test_rows_submitted_first_start_first(loop: str, origin: Origin) -> None:
    run_shards(loop, rows(origin, range(40)), rows(origin, range(40, 80)), concurrency=1)
    assert [request.target for request in origin.received] == [f"/{number}.jpg" for number in range(80)]


def test_a_parked_row_keeps_its_turn_before_later_rows(loop: str, origin: Origin) -> None:
    mixed = [Request(row, origin.url(f"{row}.jpg"), "a" if row < 6 else "b") for row in range(12)]
    run_shards(loop, mixed, concurrency=2, per_domain=1)
    first_domain = [int(request.target[1:-4]) for request in origin.received if int(request.target[1:-4]) < 6]
    assert first_domain == sorted(first_domain)


def test_failures_that_may_pass_are_tried_again(loop: str, origin: Origin) -> None:
    requests = rows(origin, range(20), "status", code=500, times=2) + rows(origin, range(20, 40))
    (shard,) = run_shards(loop, requests, retries=2)
    assert shard.outcomes == {Outcome.SUCCESS}
    assert [shard.ended[row].attempts for row in (0, 19, 20, 39)] == [3, 3, 1, 1]
    assert origin.hits["/0.jpg"] == 3


def test_a_failure_that_stays_ends_after_the_last_retry(loop: str, origin: Origin) -> None:
    (shard,) = run_shards(loop, rows(origin, range(4), "truncated"), retries=1)
    assert shard.outcomes == {Outcome.TRUNCATED}
    assert {fetched.attempts for fetched in shard.ended.values()} == {2}
    assert origin.hits.total() == 8


def test_a_final_failure_is_not_tried_again(loop: str, origin: Origin) -> None:
    (shard,) = run_shards(loop, rows(origin, range(4), "status", code=404), retries=5)
    assert shard.outcomes == {Outcome.HTTP_4XX}
    assert origin.hits.total() == 4


def test_retry_after_is_obeyed_while_others_go_on(loop: str, origin: Origin) -> None:
    asked = rows(origin, range(1), "status", code=429, retry_after=1, times=1)
    (shard,) = run_shards(loop, asked + rows(origin, range(1, 100)), concurrency=4)
    assert shard.outcomes == {Outcome.SUCCESS}
    # Many others, however slow the machine is; with it, all might have ended.
    assert list(shard.ended).index(0) > 20
    assert shard.ended[0].attempts == 2
    assert (
        shard.ended[0].started_us - min(fetched.started_us for fetched in shard.ended.values()) >= 1_000_000
    )


def test_a_server_that_asks_for_too_much_is_not_asked_again(loop: str, origin: Origin) -> None:
    closed = rows(origin, range(100), "status", code=429, retry_after=3600)
    others = [Request(row, origin.url(f"{row}.jpg"), "b") for row in range(100, 200)]
    (shard,) = run_shards(loop, closed + others, per_domain=4)
    assert {shard.ended[row].outcome for row in range(100)} == {Outcome.RATE_LIMITED}
    assert {shard.ended[row].outcome for row in range(100, 200)} == {Outcome.SUCCESS}
    refused = sum(origin.hits[f"/{row}.jpg"] for row in range(100))
    assert refused <= 6
    assert sum(shard.ended[row].attempts for row in range(100)) == refused


def test_a_server_that_refuses_everything_rests_longer_and_longer_and_is_closed_at_last(
    loop: str, origin: Origin
) -> None:
    (shard,) = run_shards(
        loop,
        rows(origin, range(400), "status", code=429),
        per_domain=2,
        retries=1,
        backoff_s=0.01,
        max_backoff_s=0.1,
    )
    assert shard.outcomes == {Outcome.RATE_LIMITED}
    assert len(origin.received) <= 40
    starts = sorted(fetched.started_us for fetched in shard.ended.values() if fetched.attempts)
    assert starts[-1] - starts[0] >= 300_000


def test_a_server_that_recovers_is_asked_for_everything(loop: str, origin: Origin) -> None:
    (shard,) = run_shards(
        loop, rows(origin, range(40), "status", code=429, times=1), per_domain=4, retries=4, backoff_s=0.01
    )
    assert shard.outcomes == {Outcome.SUCCESS}


def test_slow_rows_do_not_hold_up_their_neighbours(loop: str, origin: Origin) -> None:
    slow = [Request(row, origin.url(f"{row}.jpg", "held", until=300), "s") for row in range(8)]
    fast = [Request(row, origin.url(f"{row}.jpg"), "f") for row in range(8, 300)]
    (shard,) = run_shards(loop, slow + fast, concurrency=10, stall_timeout_s=60)
    assert shard.outcomes == {Outcome.SUCCESS}
    # Those were held until all had been asked for: two of the others may still have been on their way.
    assert set(range(8)) <= set(list(shard.ended)[-10:])


@pytest.mark.parametrize("memory_bytes", [1, 150_000, 400_000])
def test_little_memory_slows_down_but_never_stops(loop: str, origin: Origin, memory_bytes: int) -> None:
    (shard,) = run_shards(loop, rows(origin, range(60)), memory_bytes=memory_bytes, per_domain=0)
    assert all(fetched.body == BODY for fetched in shard.ended.values())


def test_faults_of_every_kind_each_end_their_own_row_only(loop: str, origin: Origin) -> None:
    faults = [
        "reset_before_headers",
        "reset_in_body",
        "truncated",
        "chunked_without_end",
        "garbage",
        "redirect_loop",
    ]
    requests = [
        Request(row, origin.url(f"{row}.jpg", *([faults[row // 2 % 6]] if row % 2 else [])), "a")
        for row in range(240)
    ]
    (shard,) = run_shards(loop, requests, retries=1, backoff_s=0.01)
    assert {row for row, fetched in shard.ended.items() if fetched.outcome is Outcome.SUCCESS} == set(
        range(0, 240, 2)
    )


def test_hunger_says_when_slots_would_run_empty(loop: str) -> None:
    spec = HttpSpec(**{**LIMITS, "concurrency": 4, "per_domain": 0})
    budget = ByteBudget(10_000_000)
    client_of_test = Client(spec, budget)

    async def scenario(origin: Origin) -> None:
        async with client_of_test as client:
            pool = FetchPool(client, spec)
            running = asyncio.ensure_future(pool.run())
            assert pool.has_capacity
            shard = Shard(rows(origin, range(40)), budget)
            pool.submit(shard.requests, shard.done)
            assert not pool.has_capacity
            await pool.wants_rows()
            assert 0 < len(shard.requests) - len(shard.ended) <= 5
            await shard.whole.wait()
            assert pool.has_capacity
            running.cancel()
            await asyncio.wait({running})

    with Origin({f"{number}.jpg": BODY for number in range(40)}, latency_s=0.02) as origin:
        run_on(loop, scenario(origin))


def test_cancelling_the_pool_ends_all_requests_and_calls_nobody(loop: str, origin: Origin) -> None:
    spec = HttpSpec(**LIMITS)
    budget = ByteBudget(10_000_000)
    client_of_test = Client(spec, budget)
    requests = rows(origin, range(100), "stall", domain="b") + rows(origin, range(1), "status", code=500)

    async def scenario() -> Shard:
        async with client_of_test as client:
            pool = FetchPool(client, spec)
            running = asyncio.ensure_future(pool.run())
            shard = Shard(requests, budget)
            pool.submit(shard.requests, shard.done)
            while budget.used_bytes < 8 * len(BODY) // 2:  # noqa: ASYNC110 - the budget tells only when bytes go
                await asyncio.sleep(0.001)
            assert (pool.in_flight, pool.parked) >= (8, 92)
            running.cancel()
            await asyncio.wait({running})
            assert (pool.in_flight, pool.ready, pool.parked, pool.delayed) == (0, 0, 0, 0)
        return shard

    assert not run_on(loop, scenario()).ended
    assert budget.used_bytes == 0


def test_a_dead_host_is_asked_a_few_times_and_its_rows_end_with_its_failure(
    loop: str, origin: Origin
) -> None:
    dead = rows(origin, range(200), "close_before_headers", domain="dead")
    (shard,) = run_shards(loop, dead, retries=0, per_domain=4)
    assert shard.outcomes == {Outcome.CONNECT}
    details = {fetched.detail for fetched in shard.ended.values()}
    assert details == {
        "connection closed before the response",
        "connection closed before the response; the host was given up",
    }
    assert origin.hits.total() <= 2 * 20


@contextmanager
def _held_until(origin: Origin, what: str, happened: Callable[[], bool]) -> Iterator[None]:
    """Let an origin answer nothing until something has happened in the block."""
    held = threading.Event()

    def hold() -> None:
        with origin.holding_after(0):
            held.set()
            wait_until(what, happened)

    with ThreadPoolExecutor(1) as thread:
        holding = thread.submit(hold)
        held.wait()
        yield
        holding.result()


def test_rows_of_a_host_whose_rules_are_asked_for_hold_no_slots(loop: str) -> None:
    images = {f"{number}.jpg": BODY for number in range(40)}
    with Origin(images) as slow, Origin(images) as quick:
        waiting = [Request(row, slow.url(f"{row}.jpg"), "slow") for row in range(20)]
        others = [Request(row, quick.url(f"{row}.jpg"), "quick") for row in range(20, 40)]
        with _held_until(slow, "the quick ones", lambda: quick.hits.total() >= 1 + 20):
            (shard,) = run_shards(loop, waiting + others, concurrency=4, per_domain=0, robots="respect")
        assert shard.outcomes == {Outcome.SUCCESS}
        assert slow.hits["/robots.txt"] == quick.hits["/robots.txt"] == 1
        # The last of them were asked for when the rules came.
        assert set(list(shard.ended)[:16]) <= set(range(20, 40))


@pytest.mark.parametrize(("asked", "pause_s"), [("", 1.0), ("&retry_after=2", 2.0)])
@pytest.mark.parametrize("code", [429, 503])
def test_rows_of_a_host_whose_rules_cannot_be_had_wait_until_it_may_be_asked_again(
    loop: str, code: int, asked: str, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "ROBOTS_TXT", f"/rules?fault=status&code={code}&times=1{asked}")
    with Origin({f"{number}.jpg": BODY for number in range(20)}) as origin:
        (shard,) = run_shards(loop, rows(origin, range(20)), robots="respect", retries=1)
        assert shard.outcomes == {Outcome.SUCCESS}
        assert origin.hits["/rules"] == 2
        first, then = (one.at_s for one in origin.received[:2])
        assert then - first > pause_s - 0.01


def test_rows_of_a_host_that_keeps_its_rules_back_for_long_end_at_once(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "ROBOTS_TXT", "/rules?fault=status&code=503&retry_after=60")
    with Origin({f"{number}.jpg": BODY for number in range(20)}) as origin:
        (shard,) = run_shards(loop, rows(origin, range(20)), robots="respect", retries=4)
        assert origin.hits == {"/rules": 1}
    assert {(one.outcome, one.attempts, one.detail) for one in shard.ended.values()} == {
        (Outcome.HTTP_5XX, 1, "robots.txt: HTTP Error 503: Service Unavailable")
    }


def test_a_crawl_delay_and_a_preset_set_the_pace(loop: str) -> None:
    images = {
        **{f"{number}.jpg": BODY for number in range(4)},
        "robots.txt": b"User-agent: *\nCrawl-delay: 0.1",
    }
    with Origin(images) as origin:
        (asked,) = run_shards(loop, rows(origin, range(4)), robots="respect")
        preset = {"a": {"delay_s": 0.2}}
        (told,) = run_shards(loop, rows(origin, range(4)), robots="respect", domains=preset)

    with Origin({**images, "robots.txt": b"User-agent: *\nCrawl-delay: 5"}) as origin:
        (free,) = run_shards(loop, rows(origin, range(4)), robots="respect", domains={"a": {"delay_s": 0}})

    assert min(_gaps_ms(asked.ended.values())) > 80
    assert min(_gaps_ms(told.ended.values())) > 160
    assert sum(_gaps_ms(free.ended.values())) < 5000


def test_a_redirect_within_a_domain_that_is_paced_waits_for_its_time(loop: str) -> None:
    images = {f"{number}.jpg": BODY for number in range(6)}
    with Origin({**images, "robots.txt": b"User-agent: *\nCrawl-delay: 0.2"}) as origin:
        requests = [
            Request(row, origin.url(f"{row}.jpg", "redirect_to", to=origin.url(f"{row + 3}.jpg")), "a")
            for row in range(3)
        ]
        (shard,) = run_shards(loop, requests, robots="respect", timeout_s=0.5)
        assert shard.outcomes == {Outcome.SUCCESS}
        assert [len(fetched.redirects) for fetched in shard.ended.values()] == [1, 1, 1]
        asked_s = [one.at_s for one in origin.received if one.target != "/robots.txt"]
    assert len(asked_s) == 6
    assert asked_s[-1] - asked_s[0] > 4.5 * 0.2


def _gaps_ms(ended: Iterable[Fetched]) -> list[float]:
    """Return the times between starts as recorded, which is a moment after they count: check them with some room."""
    starts_us = sorted(fetched.started_us for fetched in ended)
    return [(later - earlier) / 1000 for earlier, later in pairwise(starts_us)]


def test_hosts_of_a_domain_keep_one_pace_which_is_that_of_the_slowest(loop: str) -> None:
    images = {f"{number}.jpg": BODY for number in range(10)}
    quick_rules, slow_rules = (f"User-agent: *\nCrawl-delay: {delay_s}".encode() for delay_s in (0.1, 0.2))
    with (
        Origin({**images, "robots.txt": quick_rules}) as quick,
        Origin({**images, "robots.txt": slow_rules}) as slow,
    ):
        # The first of the slow one has a permit from before there was a pace.
        requests = [Request(row, host.url(f"{row}.jpg"), "one") for row, host in enumerate([slow, quick] * 5)]
        with _held_until(slow, "the pace of the quick one is known", lambda: quick.hits.total() >= 1 + 2):
            (shard,) = run_shards(loop, requests, robots="respect")
    assert min(_gaps_ms(shard.ended.values())) > 80
    with_slow = [one for one in shard.ended.values() if one.started_us >= shard.ended[0].started_us]
    assert len(with_slow) >= 5
    assert min(_gaps_ms(with_slow)) > 160


def test_headers_of_a_domain_go_to_it_alone(loop: str, origin: Origin) -> None:
    requests = rows(origin, range(1), domain="a") + rows(origin, range(1, 2), domain="b")
    run_shards(loop, requests, domains={"a": {"headers": {"Authorization": "Bearer a"}}})
    assert {one.target: one.headers.get("authorization") for one in origin.received} == {
        "/0.jpg": "Bearer a",
        "/1.jpg": None,
    }


def test_headers_of_a_domain_go_to_its_hosts_after_redirects_and_its_secrets_not_to_where_others_lead(
    loop: str, origin: Origin
) -> None:
    images = {"a.jpg": BODY, "b.jpg": BODY}
    with (
        Origin(images, address="127.0.0.2") as other_port,
        Origin(images, address="127.0.0.2") as host,
        Origin(images, address="127.0.0.3") as elsewhere,
    ):
        back = host.url("b.jpg", "redirect_to", to=other_port.url("b.jpg"))
        leads = [
            Request(0, host.url("a.jpg", "redirect_to", to=other_port.url("a.jpg")), "127.0.0.2"),
            Request(1, elsewhere.url("b.jpg", "redirect_to", to=back), "127.0.0.3"),
        ]
        headers = {"Referer": "x", "Authorization": "Bearer a"}
        run_shards(loop, leads, domains={"127.0.0.2": {"headers": headers}})

        def sent(server: Origin) -> dict[str, tuple[str | None, str | None]]:
            return {
                one.target.partition("?")[0]: (one.headers.get("referer"), one.headers.get("authorization"))
                for one in server.received
            }

        assert sent(host) == {"/a.jpg": ("x", "Bearer a"), "/b.jpg": ("x", None)}
        assert sent(other_port) == {"/a.jpg": ("x", "Bearer a"), "/b.jpg": ("x", None)}
        assert sent(elsewhere) == {"/b.jpg": (None, None)}


def test_rows_are_taken_back_of_which_none_has_begun_and_others_go_on(loop: str, origin: Origin) -> None:
    spec = HttpSpec(**{**LIMITS, "per_domain": 1})
    budget = ByteBudget(10_000_000)

    async def scenario() -> tuple[Shard, Shard, list[bool]]:
        async with Client(spec, budget) as client:
            pool = FetchPool(client, spec)
            first, second, third = (
                Shard(rows(origin, numbers), budget) for numbers in (range(20), range(20, 40), range(40, 60))
            )
            # A bound method is another object each time.
            done = [shard.done for shard in (first, second, third)]
            for shard, each in zip((first, second, third), done, strict=True):
                pool.submit(shard.requests, each)
            before = pool.withdraw(done[2], 20)
            running = asyncio.ensure_future(pool.run())
            while not first.ended:  # noqa: ASYNC110 - the pool tells only when rows end
                await asyncio.sleep(0.001)
            answers = [before, pool.withdraw(done[0], 20), pool.withdraw(done[1], 20)]
            await first.whole.wait()
            assert pool.is_idle
            running.cancel()
            await asyncio.wait({running})
            assert not third.ended
            return first, second, answers

    first, second, answers = run_on(loop, scenario())
    assert answers == [True, False, True]
    assert first.outcomes == {Outcome.SUCCESS}
    assert not second.ended
    assert origin.hits.total() == 20
