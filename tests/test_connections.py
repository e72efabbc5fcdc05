from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

import processes
from fetching import BODY, LIMITS, PATH, arrived, fetch, fetch_in_turns
from loops import LOOPS, run_on
from origin import Origin
from processes import free_port
from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.connections import PROBATION_S, PROOFS
from turbo_fetch.fetch.resolver import Lookup, Resolver
from turbo_fetch.fetch.session import SPARE_CONNECTIONS
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


@contextlib.contextmanager
def old_server(version: str, folder: Path) -> Iterator[int]:
    """Run OpenSSL's server with a single version of TLS on a free port of loopback; yield the port."""
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    port = free_port()
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(folder / "server.pem")]
    command += ["-cipher", "ALL:@SECLEVEL=0", "-www", version]
    with processes.started(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        assert server.stdout is not None
        while "ACCEPT" not in (line := server.stdout.readline()):
            assert line, "the server did not start"
        yield port


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


def test_connections_are_kept_after_bodies_and_error_pages(loop: str) -> None:
    with Origin({PATH: BODY}) as fresh:
        late = fresh.url(PATH, "late_page", code=404)
        onward = fresh.url(PATH, "late_page", code=302, to=fresh.url(PATH))
        fetch_in_turns(
            loop, [[fresh.url(PATH)], [fresh.url("missing.jpg")], [late], [onward], [fresh.url(PATH)]]
        )
        # What a redirect leads to is asked for before its connection has rested.
        assert fresh.connections == 2
        assert len(fresh.received) == 6


def test_connections_of_a_host_that_stays_silent_are_used_again_at_once(loop: str) -> None:
    with Origin({PATH: b"small"}) as fresh:
        client_of_test = Client(HttpSpec(**LIMITS), ByteBudget(10_000_000))

        async def scenario() -> None:
            async with client_of_test as client:
                # Each is held until all are asked for, so that none finds a connection that has rested.
                held = fresh.url(PATH, "held", until=PROOFS)
                await asyncio.gather(*(client.get(held) for _ in range(PROOFS)))
                await asyncio.sleep(1.5 * PROBATION_S)
                for _ in range(20):
                    await client.get(fresh.url(PATH))

        run_on(loop, scenario())
        assert (fresh.connections, fresh.hits.total()) == (PROOFS, PROOFS + 20)


def test_idle_connections_are_bounded_and_the_latest_are_kept(loop: str) -> None:
    with contextlib.ExitStack() as stack:
        origins = [stack.enter_context(Origin({PATH: b"small"})) for _ in range(SPARE_CONNECTIONS + 3)]
        urls = [origin.url(PATH) for origin in origins]
        fetch_in_turns(loop, [urls, urls[::-1]], concurrency=1)
        kept = [origin.connections == 1 for origin in origins]
    assert kept == [False] * 2 + [True] * (SPARE_CONNECTIONS + 1)


def test_a_busy_connection_is_never_closed_for_idle_ones(loop: str) -> None:
    with contextlib.ExitStack() as stack:
        busy, *others = [stack.enter_context(Origin({PATH: b"small"})) for _ in range(SPARE_CONNECTIONS + 3)]
        client_of_test = Client(HttpSpec(**{**LIMITS, "concurrency": 1}), ByteBudget(10_000_000))

        async def scenario() -> Fetched:
            async with client_of_test as client:
                await client.get(busy.url(PATH))
                slow = asyncio.ensure_future(client.get(busy.url(PATH, "stall", seconds=2)))
                await arrived(client.budget, 7)
                for other in others:
                    await client.get(other.url(PATH))
                assert not slow.done()
                return await slow

        assert run_on(loop, scenario()).body == b"small"
        assert busy.hits.total() == 2


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


class TestNames:
    """Hosts given by name; the lookup is the test's, the connections are real."""

    @staticmethod
    def fetch_by_name(loop: str, url: str, lookup: Lookup, **http: Any) -> Fetched:
        client_of_test = Client(HttpSpec(**{**LIMITS, **http}), ByteBudget(10_000_000), Resolver(lookup))

        async def scenario() -> Fetched:
            async with client_of_test as client:
                return await client.get(url.replace("127.0.0.1", "images.example"))

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

    def test_a_lookup_that_takes_too_long_is_the_resolvers_failure(self, loop: str, origin: Origin) -> None:
        answer = threading.Event()

        def lookup(host: str, family: int) -> tuple[str, ...]:
            answer.wait()
            return ("127.0.0.1",)

        fetched = self.fetch_by_name(loop, origin.url(PATH), lookup, connect_timeout_s=0.2)
        answer.set()
        assert (fetched.outcome, fetched.detail) == (Outcome.DNS, "no answer of the resolver within 0.2 s")

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
            fetched = fetch_in_turns(loop, [[secure.url(PATH)]] * 2, ca_file=authority)
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

    @pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
    def test_a_server_of_another_age_is_a_tls_failure(self, loop: str, version: str, tmp_path: Path) -> None:
        with old_server(version, tmp_path) as port:
            (fetched,) = fetch(loop, f"https://127.0.0.1:{port}/a.jpg", verify_tls=False)
        assert fetched.outcome is Outcome.TLS
        assert fetched.detail is not None
        assert "version" in fetched.detail or "protocol" in fetched.detail

    def test_a_missing_authority_file_is_an_error_of_the_spec(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"fetch\.http\.ca_file"):
            Client(HttpSpec(ca_file=str(tmp_path / "none.pem")), ByteBudget(1))
