from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.fetch.domains import HOLDS_TO_CLOSE, REFUSALS_TO_HOLD, Domain
from turbo_fetch.spec import HttpSpec

HTTP = HttpSpec(per_domain=4, backoff_s=1, max_backoff_s=30)


def refuse(domain: Domain[int], pause_s: float = 0.0, times: int = 1) -> list[float | None]:
    return [domain.refused(pause_s, HTTP) for _ in range(times)]


def test_a_few_refusals_concern_their_rows_only() -> None:
    domain: Domain[int] = Domain()
    assert refuse(domain, times=REFUSALS_TO_HOLD - 1) == [None] * (REFUSALS_TO_HOLD - 1)
    assert domain.places(HTTP) == 4


def test_any_other_answer_between_them_starts_the_count_anew() -> None:
    domain: Domain[int] = Domain()
    for _ in range(10):
        refuse(domain, times=REFUSALS_TO_HOLD - 1)
        domain.answered()
    assert not domain.is_held
    assert domain.is_idle


@pytest.mark.parametrize(("asked_s", "held_s"), [(0.0, 1.0), (0.5, 1.0), (7.0, 7.0), (30.0, 30.0)])
def test_a_hold_lasts_as_long_as_the_server_asks_and_not_less_than_the_backoff(
    asked_s: float, held_s: float
) -> None:
    domain: Domain[int] = Domain()
    assert refuse(domain, asked_s, REFUSALS_TO_HOLD)[-1] == held_s
    assert domain.places(HTTP) == 0


def test_refusals_of_requests_that_were_under_way_do_not_prolong_a_hold() -> None:
    domain: Domain[int] = Domain()
    refuse(domain, times=REFUSALS_TO_HOLD)
    assert refuse(domain, 20.0, times=5) == [None] * 5


def test_holds_double_and_then_the_server_is_closed() -> None:
    domain: Domain[int] = Domain()
    refuse(domain, times=REFUSALS_TO_HOLD - 1)
    holds = []
    while not domain.is_closed:
        holds += refuse(domain)
        domain.is_held = False
    assert holds == [1, 2, 4, 8, 16, 30, 30, 30, None]
    assert len(holds) == HOLDS_TO_CLOSE + 1


def test_a_server_that_asks_for_more_than_the_longest_pause_is_closed_at_once() -> None:
    domain: Domain[int] = Domain()
    assert refuse(domain, 31.0, REFUSALS_TO_HOLD) == [None] * REFUSALS_TO_HOLD
    assert domain.is_closed
    assert not domain.is_idle


@given(active=st.integers(0, 20), per_domain=st.integers(0, 20), concurrency=st.integers(1, 40))
def test_places_are_those_of_the_domain_or_of_the_pool(
    active: int, per_domain: int, concurrency: int
) -> None:
    domain: Domain[int] = Domain(active=active)
    http = HttpSpec(per_domain=per_domain, concurrency=concurrency)
    assert domain.places(http) == (per_domain or concurrency) - active
