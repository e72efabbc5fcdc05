from __future__ import annotations

import math
from dataclasses import replace
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.fetch.request import Draft, Fetched
from turbo_fetch.fetch.retry_policy import (
    GiveUp,
    Retry,
    backoff_ceiling_s,
    next_step,
    refusal_s,
    retry_after_s,
)
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

NOW_S = 1_800_000_000.0
HTTP = HttpSpec(retries=2, backoff_s=0.5, max_backoff_s=30)
units = st.floats(0, 1, exclude_max=True)


def ended(outcome: Outcome, retry_after: str | None = None) -> Fetched:
    return replace(Draft().end(outcome, None), retry_after=retry_after)


@pytest.mark.parametrize("outcome", Outcome)
def test_only_retryable_outcomes_are_tried_again(outcome: Outcome) -> None:
    step = next_step(ended(outcome), 1, HTTP, 0.5, NOW_S)
    assert isinstance(step, Retry) == outcome.retryable


@given(attempts=st.integers(1, 100), retries=st.integers(0, 100), unit=units)
def test_a_row_gets_one_attempt_more_than_it_has_retries(attempts: int, retries: int, unit: float) -> None:
    step = next_step(ended(Outcome.CONNECT), attempts, HttpSpec(retries=retries), unit, NOW_S)
    assert isinstance(step, Retry) == (attempts <= retries)


@given(
    attempts=st.integers(1, 100), unit=units, backoff_s=st.floats(0.01, 100), longest_s=st.floats(0.01, 100)
)
def test_a_pause_is_jittered_between_nothing_and_its_ceiling(
    attempts: int, unit: float, backoff_s: float, longest_s: float
) -> None:
    http = HttpSpec(retries=100, backoff_s=backoff_s, max_backoff_s=longest_s)
    step = next_step(ended(Outcome.TIMEOUT), attempts, http, unit, NOW_S)
    assert isinstance(step, Retry)
    assert step.delay_s == pytest.approx(unit * min(longest_s, backoff_s * 2 ** (attempts - 1)))


def test_the_ceiling_doubles_until_the_longest_pause() -> None:
    assert [backoff_ceiling_s(attempts, HTTP) for attempts in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


@given(asked_s=st.integers(0, 30), unit=units, attempts=st.integers(1, 2))
def test_a_pause_is_never_shorter_than_the_server_asks(asked_s: int, unit: float, attempts: int) -> None:
    step = next_step(ended(Outcome.RATE_LIMITED, str(asked_s)), attempts, HTTP, unit, NOW_S)
    assert isinstance(step, Retry)
    assert asked_s <= step.delay_s <= HTTP.max_backoff_s


@pytest.mark.parametrize("asked", ["31", "3600", "9" * 5000, formatdate(NOW_S + 3600, usegmt=True)])
def test_a_server_that_asks_for_too_long_a_pause_is_not_asked_again(asked: str) -> None:
    assert isinstance(next_step(ended(Outcome.HTTP_5XX, asked), 1, HTTP, 0.0, NOW_S), GiveUp)


@pytest.mark.parametrize("asked", ["", "soon", "-1", "1.5", "²", "Mon, 99 Foo 2027 25:61:00 GMT"])
def test_a_malformed_retry_after_is_as_if_absent(asked: str) -> None:
    assert retry_after_s(asked, NOW_S) is None
    assert next_step(ended(Outcome.RATE_LIMITED, asked), 1, HTTP, 0.5, NOW_S) == Retry(0.25)


@pytest.mark.parametrize(
    ("value", "pause_s"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 13, math.inf),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Friday, 15-Jan-27 08:01:00 GMT", 60.0),
        ("Fri Jan 15 08:01:00 2027", 60.0),
        ("Fri, 15 Jan 2027 07:59:00 GMT", 0.0),
    ],
)
def test_both_forms_of_retry_after_are_understood(value: str, pause_s: float) -> None:
    assert retry_after_s(value, NOW_S) == pause_s


@given(st.text())
def test_no_retry_after_text_raises_or_asks_for_the_past(value: str) -> None:
    pause_s = retry_after_s(value, NOW_S)
    assert pause_s is None or pause_s >= 0


@pytest.mark.parametrize(
    ("fetched", "pause_s"),
    [
        (ended(Outcome.RATE_LIMITED), 0.0),
        (ended(Outcome.RATE_LIMITED, "7"), 7.0),
        (ended(Outcome.HTTP_5XX, "7"), 7.0),
        (ended(Outcome.HTTP_5XX), None),
        (ended(Outcome.SUCCESS, "7"), None),
        (ended(Outcome.CONNECT), None),
    ],
)
def test_a_refusal_is_a_429_or_a_5xx_that_asks_for_a_pause(fetched: Fetched, pause_s: float | None) -> None:
    assert refusal_s(fetched, NOW_S) == pause_s


@pytest.mark.parametrize("retry_after", [None, "1"])
def test_rows_without_the_rules_of_their_host_wait_for_them_and_are_no_refusals(
    retry_after: str | None,
) -> None:
    held = replace(ended(Outcome.RATE_LIMITED, retry_after), held_s=7.0)
    assert next_step(held, 1, HTTP, 0.5, NOW_S) == Retry(7.25)
    assert next_step(replace(held, held_s=31.0), 1, HTTP, 0.5, NOW_S) == GiveUp()
    assert refusal_s(held, NOW_S) is None
