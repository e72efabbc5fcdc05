from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from fetching import BODY, LIMITS, PATH, arrived, fetch
from loops import LOOPS, run_on
from origin import Origin
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin({PATH: BODY, "empty.jpg": b"", "small.jpg": b"small"}) as server:
        yield server


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize(
    "fault",
    [None, "chunked", "until_close", "overlong", "gzipped", "close", "redirect", "slow_headers", "stall"],
)
def test_a_body_arrives_whole_however_it_is_framed(loop: str, origin: Origin, fault: str | None) -> None:
    (fetched,) = fetch(loop, origin.url(PATH, fault, seconds=0.05) if fault else origin.url(PATH))
    assert fetched.body == BODY
    assert (fetched.outcome, fetched.detail, fetched.http_status) == (Outcome.SUCCESS, None, 200)
    assert (fetched.body_bytes, fetched.attempts) == (len(BODY), 1)


def test_a_body_smaller_than_its_encoding_is_charged_as_it_is(loop: str, origin: Origin) -> None:
    (fetched,) = fetch(loop, origin.url("small.jpg", "gzipped"))
    assert fetched.body == b"small"


FAILURES: list[tuple[str, dict[str, object], Outcome, str]] = [
    ("status", {"code": 404}, Outcome.HTTP_4XX, "HTTP Error 404: Not Found"),
    ("status", {"code": 403}, Outcome.HTTP_4XX, "HTTP Error 403: Forbidden"),
    ("status", {"code": 408}, Outcome.TIMEOUT, "HTTP Error 408: Request Timeout"),
    ("status", {"code": 429}, Outcome.RATE_LIMITED, "HTTP Error 429: Too Many Requests"),
    ("status", {"code": 500}, Outcome.HTTP_5XX, "HTTP Error 500: Internal Server Error"),
    ("status", {"code": 503}, Outcome.HTTP_5XX, "HTTP Error 503: Service Unavailable"),
    ("status", {"code": 999}, Outcome.HTTP_5XX, "HTTP Error 999: Custom"),
    ("status", {"code": 304}, Outcome.REDIRECT, "HTTP Error 304: Not Modified"),
    ("reset_before_headers", {}, Outcome.CONNECT, "connection closed before the response"),
    ("close_before_headers", {}, Outcome.CONNECT, "connection closed before the response"),
    ("reset_in_body", {}, Outcome.TRUNCATED, "body ended early"),
    ("truncated", {}, Outcome.TRUNCATED, "body ended early"),
    ("chunked_without_end", {}, Outcome.TRUNCATED, "body ended early"),
    ("endless", {}, Outcome.TOO_LARGE, "body larger than 1 MB"),
    ("announced", {"length": 1_000_001}, Outcome.TOO_LARGE, "body larger than 1 MB"),
    ("gzip_bomb", {"megabytes": 20}, Outcome.TOO_LARGE, "body larger than 1 MB"),
    ("gzip_broken", {}, Outcome.PROTOCOL, "the body is not gzip, as its headers say"),
    ("garbage", {}, Outcome.PROTOCOL, "the server speaks TLS where http was asked for"),
    ("huge_headers", {}, Outcome.PROTOCOL, "headers larger than 256 KiB"),
    ("robots", {"tag": "noai"}, Outcome.OPT_OUT, "Use of image disallowed by X-Robots-Tag directive"),
    ("redirect", {"hops": 6}, Outcome.REDIRECT, "more than 5 redirects"),
    ("redirect_loop", {}, Outcome.REDIRECT, "redirect loop"),
    ("redirect_nowhere", {}, Outcome.REDIRECT, "redirect without a usable Location"),
    (
        "redirect_to",
        {"to": "file:///etc/passwd"},
        Outcome.REDIRECT,
        "redirect to the scheme file, expected http or https",
    ),
    (
        "redirect_to",
        {"to": "http://localhost:99999/"},
        Outcome.REDIRECT,
        "redirect without a usable Location",
    ),
    ("redirect_to", {"to": "http://[::1"}, Outcome.REDIRECT, "redirect without a usable Location"),
    ("redirect_to", {"to": "http://127.1:1/"}, Outcome.ADDRESS, "port 1 is not one of the web"),
]


@pytest.mark.parametrize("start", ["http://user:word@", "//user@", "http:\\\\:word@"])
def test_no_redirect_is_followed_to_an_address_with_a_user_name(
    loop: str, origin: Origin, start: str
) -> None:
    before = origin.hits["/cat.jpg"]
    onward = start + origin.base.partition("://")[2] + "/cat.jpg"
    (fetched,) = fetch(loop, origin.url(PATH, "redirect_to", to=onward))
    assert (fetched.outcome, fetched.detail) == (
        Outcome.REDIRECT,
        "redirect to an address with a user name or password",
    )
    assert origin.hits["/cat.jpg"] == before


@pytest.mark.parametrize(("fault", "parameters", "outcome", "detail"), FAILURES)
def test_a_failure_has_its_outcome_and_always_the_same_text(
    loop: str, origin: Origin, fault: str, parameters: dict[str, object], outcome: Outcome, detail: str
) -> None:
    fetched = fetch(loop, *[origin.url(PATH, fault, **parameters)] * 2)
    assert [(one.outcome, one.detail) for one in fetched] == [(outcome, detail)] * 2


@pytest.mark.parametrize(
    ("fault", "limits", "outcome", "detail"),
    [
        ("slow_headers", {"timeout_s": 0.3}, Outcome.TIMEOUT, "not complete within 0.3 s"),
        ("dribble", {"timeout_s": 0.3}, Outcome.TIMEOUT, "not complete within 0.3 s"),
        ("stall", {"stall_timeout_s": 0.3}, Outcome.STALLED, "no data for 0.3 s"),
        ("announced", {"stall_timeout_s": 0.3}, Outcome.STALLED, "no data for 0.3 s"),
    ],
)
def test_a_slow_response_ends_at_its_deadline(
    loop: str, origin: Origin, fault: str, limits: dict[str, float], outcome: Outcome, detail: str
) -> None:
    (fetched,) = fetch(loop, origin.url(PATH, fault), **limits)
    assert (fetched.outcome, fetched.detail) == (outcome, detail)
    assert fetched.total_ms >= 290


def test_chunks_that_keep_coming_are_no_stall(loop: str, origin: Origin) -> None:
    (fetched,) = fetch(loop, origin.url(PATH, "dribble", size=20_000, interval_s=0.15), stall_timeout_s=1.5)
    assert fetched.body == BODY
    assert fetched.total_ms > 1500


def test_the_total_deadline_spans_redirects(loop: str) -> None:
    with Origin({PATH: BODY}, latency_s=0.5) as slow:
        (fetched,) = fetch(loop, slow.url(PATH, "redirect", hops=5), timeout_s=1.25)
    assert fetched.outcome is Outcome.TIMEOUT
    assert 1 <= len(fetched.redirects) <= 2


def test_a_redirect_may_lead_back_once_as_from_a_server_that_makes_an_image_when_it_is_asked(
    loop: str,
) -> None:
    with Origin({PATH: BODY}) as fresh:
        (fetched,) = fetch(loop, fresh.url(PATH, "redirect_loop", times=1))
        assert (fetched.body, len(fetched.redirects)) == (BODY, 1)
        (fetched,) = fetch(loop, fresh.url(PATH, "redirect_loop"))
        assert (fetched.detail, len(fetched.redirects)) == ("redirect loop", 1)


def test_every_redirect_is_recorded(loop: str) -> None:
    with Origin({PATH: BODY}) as fresh:
        (fetched,) = fetch(loop, fresh.url(PATH, "redirect", hops=3, code=307))
        hops = [fresh.url(PATH, "redirect", hops=left, code=307) for left in (2, 1)]
        assert fetched.redirects == (*hops, fresh.url(PATH))
        assert fetched.final_url == fresh.url(PATH)


def test_facts_of_the_response_are_recorded(loop: str, origin: Origin) -> None:
    url = origin.url(PATH, "header", name="ETag", value='"v1"')
    (fetched,) = fetch(loop, url)
    assert (fetched.etag, fetched.content_type, fetched.final_url) == ('"v1"', "image/jpeg", url)
    assert fetched.first_byte_ms is not None
    assert 0 < fetched.first_byte_ms <= fetched.total_ms


@pytest.mark.parametrize(("value", "recorded"), [("caf\xe9", "caf\ufffd"), ("x" * 5000, "x" * 1000)])
def test_recorded_headers_are_bounded_valid_text(
    loop: str, origin: Origin, value: str, recorded: str
) -> None:
    url = origin.url(PATH, "header", name="Last-Modified", value=value)
    (fetched,) = fetch(loop, url)
    assert fetched.last_modified == recorded


@pytest.mark.parametrize("path", ["empty.jpg", PATH])
def test_an_empty_body_is_a_success_for_the_transform_to_judge(loop: str, origin: Origin, path: str) -> None:
    url = origin.url(path, "no_content") if path == PATH else origin.url(path)
    (fetched,) = fetch(loop, url)
    assert (fetched.outcome, fetched.body) == (Outcome.SUCCESS, b"")


def test_the_request_says_who_asks_and_what_for(loop: str) -> None:
    with Origin({PATH: BODY}) as fresh:
        fetch(loop, fresh.url(PATH), user_agent="tester/{version}", headers={"X-Reason": "test"})
        (request,) = fresh.received
    assert request.headers["user-agent"].startswith("tester/0")
    assert request.headers["accept"].startswith("image/jpeg,")
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["x-reason"] == "test"
    assert "cookie" not in request.headers


def test_cookies_are_not_kept(loop: str) -> None:
    with Origin({PATH: BODY}) as fresh:
        fetch(loop, fresh.url(PATH, "header", name="Set-Cookie", value="a=b; Path=/"), fresh.url(PATH))
        assert all("cookie" not in request.headers for request in fresh.received)


def test_a_image_larger_than_the_budget_still_arrives(loop: str, origin: Origin) -> None:
    budget = ByteBudget(1000)

    async def scenario() -> Fetched:
        async with Client(HttpSpec(**LIMITS), budget) as client:
            return await client.get(origin.url(PATH))

    assert run_on(loop, scenario()).body == BODY
    assert budget.used_bytes == len(BODY)


def test_waiting_for_the_budget_does_not_count_against_deadlines(loop: str, origin: Origin) -> None:
    budget = ByteBudget(100_000)

    async def scenario() -> Fetched:
        other = budget.reader()
        other.charge_up_to(90_000)
        other.finish(90_000)
        async with Client(HttpSpec(**{**LIMITS, "timeout_s": 1.5, "stall_timeout_s": 1.2}), budget) as client:
            asyncio.get_running_loop().call_later(3.0, budget.release, 90_000)
            return await client.get(origin.url(PATH, "dribble", size=100_000, interval_s=0.02))

    fetched = run_on(loop, scenario())
    assert fetched.body == BODY
    assert fetched.total_ms > 2900


def test_cancellation_passes_through_and_gives_the_bytes_back(loop: str, origin: Origin) -> None:
    budget = ByteBudget(10_000_000)

    async def scenario() -> bool:
        async with Client(HttpSpec(**LIMITS), budget) as client:
            request = asyncio.ensure_future(client.get(origin.url(PATH, "stall")))
            await arrived(budget)
            request.cancel()
            await asyncio.wait({request})
            return request.cancelled()

    assert run_on(loop, scenario())
    assert budget.used_bytes == 0
