from __future__ import annotations

from turbo_fetch.fetch.breaker import (
    FAILURES_TO_OPEN,
    FIRST_COOLDOWN_S,
    LONGEST_COOLDOWN_S,
    REMEMBERED,
    Breaker,
    Breakers,
)
from turbo_fetch.fetch.failures import Failure
from turbo_fetch.outcomes import Outcome

REFUSED: Failure = (Outcome.CONNECT, "connection refused")


def failed(times: int) -> Breaker:
    breaker = Breaker(REFUSED)
    for _ in range(times):
        breaker.failed(REFUSED, 0.0)
    return breaker


def test_a_few_failures_keep_no_row_from_asking() -> None:
    assert failed(FAILURES_TO_OPEN - 1).admits(0.0)


def test_a_dead_host_rests_and_then_one_row_tries_it() -> None:
    breaker = failed(FAILURES_TO_OPEN)
    assert not breaker.admits(FIRST_COOLDOWN_S - 0.1)
    assert [breaker.admits(FIRST_COOLDOWN_S) for _ in range(3)] == [True, False, False]


def test_requests_that_were_under_way_do_not_prolong_a_cooldown() -> None:
    assert failed(FAILURES_TO_OPEN + 200).cooldown_ends_s == FIRST_COOLDOWN_S


def test_rests_double_up_to_the_longest_and_rows_wait_for_the_first_two_trials_only() -> None:
    breaker = failed(FAILURES_TO_OPEN)
    cooldowns, waits = [], []
    now_s = 0.0
    for _ in range(10):
        cooldowns.append(breaker.cooldown_ends_s - now_s)
        waits.append(breaker.is_waited_for)
        now_s = breaker.cooldown_ends_s
        assert breaker.admits(now_s)
        breaker.failed(REFUSED, now_s)
    assert cooldowns == [2, 4, 8, 16, 32, 64, 128, 256, LONGEST_COOLDOWN_S, LONGEST_COOLDOWN_S]
    assert waits == [True, True, *[False] * 8]


def test_of_any_number_of_hosts_that_cannot_be_reached_those_are_remembered_that_were_met_last() -> None:
    breakers = Breakers()
    first = breakers.of("http://0", REFUSED)
    for number in range(1, REMEMBERED):
        breakers.of(f"http://{number}", REFUSED)
    # A row wants to ask it.
    assert breakers.get("http://0") is first
    breakers.of("http://new", REFUSED)
    assert len(breakers) == REMEMBERED
    assert breakers.of("http://0", REFUSED) is first
    assert breakers.get("http://1") is None
    breakers.answered("http://0")
    assert breakers.get("http://0") is None
