from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.fetch.consent import agent_token, is_opted_out

FORBIDDING = frozenset({"noai", "noimageai", "noindex", "noimageindex"})


@pytest.mark.parametrize(
    "headers",
    [
        ["noai"],
        ["NoAI"],
        [" nofollow , noimageai "],
        ["nofollow", "noindex"],
        ["none"],
        ["turbo-fetch: noai"],
        ["Turbo-Fetch: nofollow, noai"],
        ["*: noindex"],
        ["otherbot: nofollow, turbo-fetch: noindex"],
        ["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"],
        ["max-snippet: 20, noindex"],
        ["turbo-fetch: none"],
    ],
)
def test_directives_for_us_forbid_use(headers: list[str]) -> None:
    assert is_opted_out(headers, FORBIDDING, "turbo-fetch")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["all"],
        ["nofollow, noarchive"],
        ["googlebot: noindex"],
        ["googlebot: noindex, noai"],
        ["googlebot: none", "bingbot: noai"],
        ["turbo-fetch: nofollow, googlebot: noindex"],
        ["turbo-fetcher: noindex"],
        ["unavailable_after: Saturday, 25-Jun-30 15:00:00 PST"],
        ["max-image-preview: none"],
        ["noaix"],
    ],
)
def test_other_directives_and_other_agents_do_not(headers: list[str]) -> None:
    assert not is_opted_out(headers, FORBIDDING, "turbo-fetch")


def test_without_forbidding_directives_nothing_forbids() -> None:
    assert not is_opted_out(["noai, noindex, none"], frozenset(), "turbo-fetch")


@given(st.lists(st.text()))
def test_no_header_text_raises(headers: list[str]) -> None:
    assert is_opted_out(headers, FORBIDDING, "turbo-fetch") in {True, False}


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        ("turbo-fetch/0.1 (dataset builder; contact unset)", "turbo-fetch"),
        ("MyBot", "mybot"),
        ("My Bot/2", "my"),
        ("", ""),
    ],
)
def test_our_token_is_the_product_name(user_agent: str, token: str) -> None:
    assert agent_token(user_agent) == token
