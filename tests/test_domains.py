from __future__ import annotations

import asyncio
from time import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.fetch.domains import COOLDOWNS_TO_CLOSE, REFUSALS_TO_COOL_DOWN, Domain, Domains
from turbo_fetch.fetch.limiter_client import LimiterClient
from turbo_fetch.fetch.request import Draft, Row
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import DomainSpec, HttpSpec

HTTP = HttpSpec(per_domain=4, backoff_s=1, max_backoff_s=30)


def refuse(domain: Domain, pause_s: float = 0.0, times: int = 1) -> list[float | None]:
    return [domain.refused(pause_s, HTTP) for _ in range(times)]


def test_a_few_refusals_concern_their_rows_only() -> None:
    domain = Domain()
    assert refuse(domain, times=REFUSALS_TO_COOL_DOWN - 1) == [None] * (REFUSALS_TO_COOL_DOWN - 1)
    assert not domain.is_cooling_down
    assert domain.permits(HTTP) == 2


def test_any_other_answer_between_them_starts_the_count_anew() -> None:
    domain = Domain()
    for _ in range(10):
        refuse(domain, times=REFUSALS_TO_COOL_DOWN - 1)
        domain.answered(HTTP)
    assert not domain.is_cooling_down
    for _ in range(30):
        domain.answered(HTTP)
    assert domain.is_idle


@pytest.mark.parametrize(("asked_s", "held_s"), [(0.0, 1.0), (0.5, 1.0), (7.0, 7.0), (30.0, 30.0)])
def test_a_cooldown_lasts_as_long_as_the_server_asks_and_not_less_than_the_backoff(
    asked_s: float, held_s: float
) -> None:
    domain = Domain()
    assert refuse(domain, asked_s, REFUSALS_TO_COOL_DOWN)[-1] == held_s
    assert domain.permits(HTTP) == 0


def test_refusals_of_requests_that_were_under_way_do_not_prolong_a_cooldown() -> None:
    domain = Domain()
    refuse(domain, times=REFUSALS_TO_COOL_DOWN)
    assert refuse(domain, 20.0, times=5) == [None] * 5


def test_cooldowns_double_and_then_the_server_is_closed() -> None:
    domain = Domain()
    refuse(domain, times=REFUSALS_TO_COOL_DOWN - 1)
    cooldowns = []
    while not domain.is_closed:
        cooldowns += refuse(domain)
        domain.is_cooling_down = False
    assert cooldowns == [1, 2, 4, 8, 16, 30, 30, 30, None]
    assert len(cooldowns) == COOLDOWNS_TO_CLOSE + 1


def test_a_server_that_asks_for_more_than_the_longest_pause_is_closed_at_once() -> None:
    domain = Domain()
    assert refuse(domain, 31.0, REFUSALS_TO_COOL_DOWN) == [None] * REFUSALS_TO_COOL_DOWN
    assert domain.is_closed
    assert not domain.is_idle


@given(active=st.integers(0, 20), per_domain=st.integers(0, 20), concurrency=st.integers(1, 40))
def test_places_are_those_of_the_domain_or_of_the_pool(
    active: int, per_domain: int, concurrency: int
) -> None:
    domain = Domain(active=active)
    http = HttpSpec(per_domain=per_domain, concurrency=concurrency)
    assert domain.permits(http) == (per_domain or concurrency) - active


def test_a_window_is_halved_once_per_window_and_widens_by_one_per_window() -> None:
    http = HttpSpec(per_domain=16)
    domain = Domain()
    for expected in (8, 4, 2):
        domain.overloaded(http)
        assert domain.permits(http) == expected
        for _ in range(2 * expected - 1):
            domain.overloaded(http)
        assert domain.permits(http) == expected
    for _ in range(200):
        domain.answered(http)
    assert domain.permits(http) == 16


def test_a_window_never_closes_by_itself() -> None:
    domain = Domain()
    for _ in range(100):
        domain.overloaded(HTTP)
    assert domain.permits(HTTP) == 1


def test_rising_latency_narrows_the_window_and_noise_does_not() -> None:
    steady = Domain()
    for number in range(200):
        steady.answered(HTTP, 20 + 150 * (number % 3 == 0))
    assert steady.permits(HTTP) == 4
    rising = Domain()
    for number in range(60):
        rising.answered(HTTP, 20 + 60 * number)
    assert rising.permits(HTTP) == 1
    for _ in range(100):
        rising.answered(HTTP, 20)
    assert rising.permits(HTTP) == 4


def test_without_a_limit_per_domain_latency_says_nothing() -> None:
    http = HttpSpec(per_domain=0, concurrency=32)
    domain = Domain()
    for number in range(60):
        domain.answered(http, 20 + 100 * number)
    assert domain.permits(http) == 32


def test_a_preset_takes_the_place_of_the_limit_and_a_pace_lets_one_start_at_a_time() -> None:
    domain = Domain(DomainSpec(concurrency=2), min_interval_s=1.0)
    assert (domain.limit(HTTP), domain.permits(HTTP)) == (2, 1)
    domain.is_spacing = True
    assert domain.permits(HTTP) == 0


def test_a_reopened_domain_has_one_place_and_no_patience_until_it_answers() -> None:
    domain = Domain()
    refuse(domain, 31.0, REFUSALS_TO_COOL_DOWN)
    domain.reopen()
    assert (domain.is_closed, domain.permits(HTTP)) == (False, 1)
    refuse(domain)
    assert domain.is_closed
    domain.reopen()
    domain.answered(HTTP)
    assert refuse(domain, times=REFUSALS_TO_COOL_DOWN - 1) == [None] * (REFUSALS_TO_COOL_DOWN - 1)
    assert not domain.is_closed


@pytest.mark.parametrize("pause_s", [1.0, 1000.0])
@pytest.mark.parametrize("is_shared", [False, True])
def test_who_has_a_permit_from_before_a_domain_rests_does_not_start(is_shared: bool, pause_s: float) -> None:
    async def meet_refusals() -> None:
        limiter = LimiterClient(HTTP) if is_shared else None
        if limiter is not None:
            limiter.announce(["a"] * (REFUSALS_TO_COOL_DOWN + 1))
        domains = Domains(HTTP, _forget, limiter)
        domain = domains.domain("a")
        for _ in range(REFUSALS_TO_COOL_DOWN + 1):
            domains.begin("a", domain)
        for _ in range(REFUSALS_TO_COOL_DOWN):
            assert domains.start("a")
            refusal = Draft(http_status=429, retry_after=str(pause_s))
            domains.end("a", refusal.end(Outcome.RATE_LIMITED, "429"), time())
        assert domain.is_cooling_down or domain.is_closed
        assert not domains.start("a")
        domains.give_up("a")
        assert domain.active == 0
        domains.clear()

    asyncio.run(meet_refusals())


def test_a_turn_that_is_given_up_is_there_for_the_next() -> None:
    paced = HttpSpec(domains={"a": DomainSpec(delay_s=60)})

    async def take_turns() -> None:
        domains = Domains(paced, _forget, None)
        domain = domains.domain("a")
        domains.begin("a", domain)
        domain.is_cooling_down = True
        assert not domains.start("a")
        domains.give_up("a")
        domain.is_cooling_down = False
        assert domain.permits(paced) == 1
        domains.begin("a", domain)
        assert domains.start("a")
        assert domain.permits(paced) == 0
        domains.clear()

    asyncio.run(take_turns())


def _forget(row: Row) -> None:
    """Release a row to nowhere."""
