from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loops import LOOPS, run_on
from origin import Origin
from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import SPARE_CONNECTIONS, Client, Fetched
from turbo_fetch.fetch.resolver import Lookup, Resolver
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

BODY = bytes(range(256)) * 1200
PATH = "a picture.jpg"
LIMITS = {"allow_private_addresses": True, "timeout_s": 5, "stall_timeout_s": 5, "max_body_mb": 1}


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin({PATH: BODY, "empty.jpg": b"", "small.jpg": b"small"}) as server:
        yield server


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def fetch(loop: str, *urls: str, **http: Any) -> list[Fetched]:
    """Get addresses one after the other; check that the budget is charged for just the bodies returned."""
    client_of_test = Client(HttpSpec(**{**LIMITS, **http}), ByteBudget(10_000_000))

    async def get_all() -> list[Fetched]:
        async with client_of_test as client:
            return [await client.get(url) for url in urls]

    fetched = run_on(loop, get_all())
    assert client_of_test.budget.used_bytes == sum(len(one.body or b"") for one in fetched)
    assert all((one.outcome is Outcome.SUCCESS) == (one.body is not None) for one in fetched)
    return fetched


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
    ("reset_before_headers", {}, Outcome.CONNECT, "connection reset by peer before the response"),
    ("close_before_headers", {}, Outcome.CONNECT, "connection closed before the response"),
    ("reset_in_body", {}, Outcome.TRUNCATED, "body ended early"),
    ("truncated", {}, Outcome.TRUNCATED, "body ended early"),
    ("chunked_without_end", {}, Outcome.TRUNCATED, "body ended early"),
    ("endless", {}, Outcome.TOO_LARGE, "body larger than 1 MB"),
    ("announced", {"length": 1_000_001}, Outcome.TOO_LARGE, "body larger than 1 MB"),
    ("gzip_bomb", {"megabytes": 20}, Outcome.TOO_LARGE, "body larger than 1 MB"),
    ("gzip_broken", {}, Outcome.PROTOCOL, "body does not match its Content-Encoding"),
    ("garbage", {}, Outcome.PROTOCOL, "malformed response"),
    ("huge_headers", {}, Outcome.PROTOCOL, "malformed response"),
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
    ("redirect_to", {"to": "http://127.1/"}, Outcome.REDIRECT, "address cannot be requested"),
]


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
    ],
)
def test_a_slow_response_ends_at_its_deadline(
    loop: str, origin: Origin, fault: str, limits: dict[str, float], outcome: Outcome, detail: str
) -> None:
    (fetched,) = fetch(loop, origin.url(PATH, fault), **limits)
    assert (fetched.outcome, fetched.detail) == (outcome, detail)
    assert 290 <= fetched.total_ms < 1500


def test_chunks_that_keep_coming_are_no_stall(loop: str, origin: Origin) -> None:
    (fetched,) = fetch(loop, origin.url(PATH, "dribble", size=20_000, interval_s=0.05), stall_timeout_s=0.4)
    assert fetched.body == BODY
    assert fetched.total_ms > 700


def test_the_total_deadline_spans_redirects(loop: str) -> None:
    with Origin({PATH: BODY}, latency_s=0.2) as slow:
        (fetched,) = fetch(loop, slow.url(PATH, "redirect", hops=5), timeout_s=0.5)
    assert fetched.outcome is Outcome.TIMEOUT
    assert 1 <= len(fetched.redirects) <= 2


def test_a_listener_that_does_not_answer_is_a_connection_timeout(loop: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        (fetched,) = fetch(loop, url, connect_timeout_s=0.3)
    assert (fetched.outcome, fetched.detail) == (Outcome.TIMEOUT, "no connection within 0.3 s")


def test_a_closed_port_is_a_connection_failure(loop: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        (fetched,) = fetch(loop, f"http://127.0.0.1:{bound.getsockname()[1]}/")
    assert (fetched.outcome, fetched.detail) == (Outcome.CONNECT, "connection refused")


def test_every_redirect_is_recorded_and_uses_the_same_connection(loop: str) -> None:
    with Origin({PATH: BODY}) as fresh:
        (fetched,) = fetch(loop, fresh.url(PATH, "redirect", hops=3, code=307))
        assert fresh.connections == 1
        hops = [fresh.url(PATH, "redirect", hops=left, code=307) for left in (2, 1)]
        assert fetched.redirects == (*hops, fresh.url(PATH))
        assert fetched.final_url == fresh.url(PATH)


def test_connections_are_kept_after_bodies_and_error_pages(loop: str) -> None:
    with Origin({PATH: BODY}) as fresh:
        late = fresh.url(PATH, "late_page", code=404)
        onward = fresh.url(PATH, "late_page", code=302, to=fresh.url(PATH))
        fetch(loop, fresh.url(PATH), fresh.url("missing.jpg"), late, onward)
        assert fresh.connections == 1
        assert len(fresh.received) == 5


def test_idle_connections_are_bounded_and_the_latest_are_kept(loop: str) -> None:
    with contextlib.ExitStack() as stack:
        origins = [stack.enter_context(Origin({PATH: b"small"})) for _ in range(SPARE_CONNECTIONS + 3)]
        urls = [origin.url(PATH) for origin in origins]
        fetch(loop, *urls, *reversed(urls), concurrency=1)
        kept = [origin.connections == 1 for origin in origins]
    assert kept == [False] * 2 + [True] * (SPARE_CONNECTIONS + 1)


def test_a_busy_connection_is_never_closed_for_idle_ones(loop: str) -> None:
    with contextlib.ExitStack() as stack:
        busy, *others = [stack.enter_context(Origin({PATH: b"small"})) for _ in range(SPARE_CONNECTIONS + 3)]
        client_of_test = Client(HttpSpec(**{**LIMITS, "concurrency": 1}), ByteBudget(10_000_000))

        async def scenario() -> Fetched:
            async with client_of_test as client:
                await client.get(busy.url(PATH))
                slow = asyncio.ensure_future(client.get(busy.url(PATH, "stall", seconds=0.5)))
                await arrived(client.budget, 7)
                for other in others:
                    await client.get(other.url(PATH))
                assert not slow.done()
                return await slow

        assert run_on(loop, scenario()).body == b"small"
        assert busy.hits.total() == 2


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


LOOPBACK = [
    "127.0.0.1",
    "localhost",
    "127.8.9.10",
    "0x7f.1",
    "0.0.0.0",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
]


@pytest.mark.parametrize("name", LOOPBACK)
def test_private_addresses_are_refused_by_literal_and_by_name(loop: str, origin: Origin, name: str) -> None:
    connections = origin.connections
    url = origin.url(PATH).replace("127.0.0.1", name)
    (fetched,) = fetch(loop, url, allow_private_addresses=False)
    assert (fetched.outcome, fetched.detail) == (Outcome.ADDRESS, "not a public address")
    assert origin.connections == connections


@pytest.mark.parametrize("name", ["127.1", "2130706433"])
def test_abbreviated_addresses_cannot_be_requested(loop: str, origin: Origin, name: str) -> None:
    connections = origin.connections
    (fetched,) = fetch(loop, origin.url(PATH).replace("127.0.0.1", name), allow_private_addresses=False)
    assert (fetched.outcome, fetched.detail) == (Outcome.URL, "address cannot be requested")
    assert origin.connections == connections


def test_a_picture_larger_than_the_budget_still_arrives(loop: str, origin: Origin) -> None:
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
        async with Client(HttpSpec(**{**LIMITS, "timeout_s": 0.4, "stall_timeout_s": 0.3}), budget) as client:
            asyncio.get_running_loop().call_later(1.0, budget.release, 90_000)
            return await client.get(origin.url(PATH, "dribble", size=100_000, interval_s=0.02))

    fetched = run_on(loop, scenario())
    assert fetched.body == BODY
    assert fetched.total_ms > 900


async def arrived(budget: ByteBudget, count: int = 1) -> None:
    """Wait until so many bytes of bodies are charged."""
    while budget.used_bytes < count:  # noqa: ASYNC110 - the budget tells only when bytes go
        await asyncio.sleep(0.001)


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


class TestNames:
    """Hosts given by name; the lookup is the test's, the connections are real."""

    @staticmethod
    def fetch_by_name(loop: str, url: str, lookup: Lookup, **http: Any) -> Fetched:
        client_of_test = Client(HttpSpec(**{**LIMITS, **http}), ByteBudget(10_000_000), Resolver(lookup))

        async def scenario() -> Fetched:
            async with client_of_test as client:
                return await client.get(url.replace("127.0.0.1", "pictures.example"))

        return run_on(loop, scenario())

    @pytest.mark.parametrize(
        ("error", "outcome", "detail"),
        [
            (socket.EAI_NONAME, Outcome.NO_SUCH_HOST, "no such host"),
            (socket.EAI_NODATA, Outcome.NO_SUCH_HOST, "no such host"),
            (socket.EAI_AGAIN, Outcome.DNS, "name resolution failed"),
            (socket.EAI_FAIL, Outcome.DNS, "name resolution failed"),
        ],
    )
    def test_a_name_that_does_not_exist_is_told_from_one_that_cannot_be_asked_for_now(
        self, loop: str, origin: Origin, error: int, outcome: Outcome, detail: str
    ) -> None:
        def lookup(host: str, family: int) -> tuple[str, ...]:
            raise socket.gaierror(error, "failed")

        fetched = self.fetch_by_name(loop, origin.url(PATH), lookup)
        assert (fetched.outcome, fetched.detail) == (outcome, detail)

    def test_a_slow_lookup_is_a_connection_timeout(self, loop: str, origin: Origin) -> None:
        answer = threading.Event()

        def lookup(host: str, family: int) -> tuple[str, ...]:
            answer.wait()
            return ("127.0.0.1",)

        fetched = self.fetch_by_name(loop, origin.url(PATH), lookup, connect_timeout_s=0.2)
        answer.set()
        assert (fetched.outcome, fetched.detail) == (Outcome.TIMEOUT, "no connection within 0.2 s")

    def test_a_dead_address_is_passed_over_for_a_living_one(self, loop: str, origin: Origin) -> None:
        fetched = self.fetch_by_name(loop, origin.url(PATH), lambda *_: ("127.0.0.2", "127.0.0.1"))
        assert fetched.body == BODY

    @pytest.mark.parametrize(
        "addresses", [("127.0.0.1",), ("127.0.0.1", "::1"), ("::ffff:127.0.0.1", "10.0.0.1")]
    )
    def test_a_name_cannot_smuggle_in_a_private_address(
        self, loop: str, origin: Origin, addresses: tuple[str, ...]
    ) -> None:
        connections = origin.connections
        fetched = self.fetch_by_name(
            loop, origin.url(PATH), lambda *_: addresses, allow_private_addresses=False
        )
        assert (fetched.outcome, fetched.detail) == (Outcome.ADDRESS, "not a public address")
        assert origin.connections == connections


class TestTls:
    """https: one trusted authority, one context."""

    def test_a_trusted_certificate_is_accepted(self, loop: str, tmp_path: Path) -> None:
        with Origin({PATH: BODY}, tls=True) as secure:
            authority = str(secure.write_authority(tmp_path))
            fetched = fetch(loop, secure.url(PATH), secure.url(PATH), ca_file=authority)
            assert [one.body for one in fetched] == [BODY, BODY]
            assert secure.connections == 1

    def test_an_unknown_authority_is_refused_unless_told_otherwise(self, loop: str) -> None:
        with Origin({PATH: BODY}, tls=True) as secure:
            (refused,) = fetch(loop, secure.url(PATH))
            (accepted,) = fetch(loop, secure.url(PATH), verify_tls=False)
        assert refused.outcome is Outcome.TLS
        assert refused.detail == "certificate verify failed: unable to get local issuer certificate"
        assert accepted.body == BODY

    def test_a_certificate_for_another_name_is_refused(self, loop: str, tmp_path: Path) -> None:
        with Origin({PATH: BODY}, tls=True, names=("other.example",)) as secure:
            (fetched,) = fetch(loop, secure.url(PATH), ca_file=str(secure.write_authority(tmp_path)))
        assert fetched.outcome is Outcome.TLS
        assert fetched.detail is not None
        assert "mismatch" in fetched.detail

    def test_plain_http_behind_https_is_a_tls_failure(self, loop: str, origin: Origin) -> None:
        (fetched,) = fetch(loop, origin.url(PATH).replace("http:", "https:"))
        assert fetched.outcome in {Outcome.TLS, Outcome.CONNECT}
        assert fetched.detail is not None
        assert "handshake" in fetched.detail

    def test_a_missing_authority_file_is_an_error_of_the_spec(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"fetch\.http\.ca_file"):
            Client(HttpSpec(ca_file=str(tmp_path / "none.pem")), ByteBudget(1))
