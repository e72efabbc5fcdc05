from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from dataclasses import dataclass, field

import pytest

from loops import LOOPS, run_on
from turbo_fetch.fetch.resolver import FOUND_S, MAX_THREADS, NOT_FOUND_S, TROUBLE_S, Resolver, system_lookup


@dataclass
class Names:
    """A name service in a dictionary, with a clock that tests set, and a gate that holds lookups up."""

    addresses: dict[str, tuple[str, ...] | int]
    asked: Counter[str] = field(default_factory=Counter)
    now_s: float = 0.0
    gate: threading.Event = field(default_factory=threading.Event)
    running: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.gate.set()

    def lookup(self, host: str, family: int) -> tuple[str, ...]:
        self.asked[host] += 1
        self.running.release()
        self.gate.wait()
        found = self.addresses[host]
        if isinstance(found, int):
            raise socket.gaierror(found, "failed")
        return found

    def clock(self) -> float:
        return self.now_s

    def resolver(self, max_names: int = 100) -> Resolver:
        return Resolver(self.lookup, max_names, self.clock)


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def ask(resolver: Resolver, host: str) -> list[str] | int | None:
    """Return the addresses of a name, or the number of the error."""
    try:
        return [answer["host"] for answer in await resolver.resolve(host, 80)]
    except socket.gaierror as error:
        return error.errno


@pytest.mark.parametrize(
    ("found", "lifetime_s"),
    [
        (("192.0.2.1", "2001:db8::1"), FOUND_S),
        (socket.EAI_NONAME, NOT_FOUND_S),
        (socket.EAI_AGAIN, TROUBLE_S),
    ],
)
def test_answers_good_and_bad_are_remembered_for_their_lifetime(
    loop: str, found: tuple[str, ...] | int, lifetime_s: float
) -> None:
    names = Names({"a.example": found})
    expected = list(found) if isinstance(found, tuple) else found

    async def scenario() -> None:
        resolver = names.resolver()
        for now_s, lookups in ((0.0, 1), (lifetime_s - 0.01, 1), (lifetime_s, 2)):
            names.now_s = now_s
            assert await ask(resolver, "a.example") == expected
            assert names.asked["a.example"] == lookups
        await resolver.close()

    run_on(loop, scenario())


def test_requests_for_one_name_share_one_lookup_even_if_the_first_is_cancelled(loop: str) -> None:
    names = Names({"a.example": ("192.0.2.1",)})

    async def scenario() -> list[list[str] | int | None]:
        names.gate.clear()
        resolver = names.resolver()
        first, *others = (asyncio.ensure_future(ask(resolver, "a.example")) for _ in range(50))
        await asyncio.to_thread(names.running.acquire)
        first.cancel()
        names.gate.set()
        answers = await asyncio.gather(*others)
        await resolver.close()
        return answers

    assert run_on(loop, scenario()) == [["192.0.2.1"]] * 49
    assert names.asked["a.example"] == 1


def test_many_slow_lookups_run_at_once_and_the_rest_follow(loop: str) -> None:
    hosts = [f"{number}.example" for number in range(MAX_THREADS + 20)]
    names = Names(dict.fromkeys(hosts, ("192.0.2.1",)))

    def wait_for_all_threads() -> None:
        for _ in range(MAX_THREADS):
            names.running.acquire()

    async def scenario() -> int:
        names.gate.clear()
        resolver = names.resolver()
        asking = [asyncio.ensure_future(ask(resolver, host)) for host in hosts]
        await asyncio.to_thread(wait_for_all_threads)
        at_once = names.asked.total()
        names.gate.set()
        assert await asyncio.gather(*asking) == [["192.0.2.1"]] * len(hosts)
        await resolver.close()
        return at_once

    assert run_on(loop, scenario()) == MAX_THREADS


def test_the_least_recently_used_name_is_forgotten_first(loop: str) -> None:
    names = Names(dict.fromkeys("abcd", ("192.0.2.1",)))

    async def scenario() -> None:
        resolver = names.resolver(max_names=3)
        for host in "abcadab":
            await ask(resolver, host)
        await resolver.close()

    run_on(loop, scenario())
    assert names.asked == {"a": 1, "b": 2, "c": 1, "d": 1}


def test_an_answer_after_the_end_of_the_loop_is_dropped(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    names = Names({"a.example": ("192.0.2.1",)})
    resolver = names.resolver()

    async def leave() -> None:
        names.gate.clear()
        asking = asyncio.ensure_future(ask(resolver, "a.example"))
        await asyncio.to_thread(names.running.acquire)
        asking.cancel()

    run_on(loop, leave())
    names.gate.set()
    resolver._threads.shutdown()
    assert not caplog.records


def test_the_system_knows_localhost() -> None:
    assert set(system_lookup("localhost", socket.AF_UNSPEC)) <= {"127.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".example", "a..b", "\x00"])
def test_impossible_names_are_errors_of_resolution(host: str) -> None:
    with pytest.raises((socket.gaierror, ValueError)):
        system_lookup(host, socket.AF_UNSPEC)
