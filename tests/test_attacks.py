"""Addresses that want the fetcher to connect where it must not: none of them opens a connection."""

# ruff: noqa: RUF001 - odd characters are the point

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pytest
from dnslib import QTYPE, RR, A
from dnslib.dns import DNSRecord
from dnslib.server import BaseResolver, DNSServer

from fetching import LIMITS
from loops import run_on
from origin import Origin
from turbo_fetch.fetch.addresses import AddressInfo, any_socket, public_socket
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.resolver import Lookup, Resolver
from turbo_fetch.outcomes import Outcome
from turbo_fetch.plan.urls import parse_urls
from turbo_fetch.shard.results import not_fetched
from turbo_fetch.spec import HttpSpec

LITERALS = [
    "127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "0", "127.1", "127.0.1", "2130706433", "017700000001",
    "0x7f000001", "0x7f.1", "0X7F.0x0.0x0.0x1", "0177.0.0.1", "0177.0.0.01", "127.0.0.1.", "127.1.", "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1", "１２７.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1", "127．0.0.1", "localhost", "LOCALHOST",
    "localhost.", "ｌocalhost", "[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::127.0.0.1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[0:0:0:0:0:FFFF:7F00:0001]", "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1%25lo]", "[fe80::1%lo]", "[::1%25lo]", "[fec0::1]", "[fc00::1]",
    "10.0.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "[fd00:ec2::254]", "[2606:4700::5efe:127.0.0.1]",
    "user:secret@127.0.0.1", "192.0.2.1@127.0.0.1", "192.0.2.1%00@127.0.0.1", "192.0.2.1#@127.0.0.1",
    "192.0.2.1\\@127.0.0.1",
    "127.0.0.1\t", "\r\n127.0.0.1",
]  # fmt: skip
OTHER_SCHEMES = [
    "file:///etc/passwd", "ftp://127.0.0.1/", "data:image/png;base64,AAAA", "gopher://127.0.0.1/", "ws://127.0.0.1/",
    "unix:///var/run/docker.sock", "javascript:alert(1)", "//127.0.0.1/", "dict://127.0.0.1/",
]  # fmt: skip


class Traps:
    """Listening sockets that count who connects."""

    def __init__(self, stack: ExitStack) -> None:
        self.connections = 0
        self.threads = threading.active_count()
        """Those of other tests, before the attacks."""
        self.sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0)))]
        self.port = self.sockets[0].getsockname()[1]
        with socket.socket() as probe:
            probe.bind(("127.0.0.2", self.port))
        self.sockets.append(stack.enter_context(socket.create_server(("127.0.0.2", self.port))))
        if socket.has_dualstack_ipv6():
            self.sockets.append(
                stack.enter_context(socket.create_server(("::1", self.port), family=socket.AF_INET6))
            )
        for listener in self.sockets:
            listener.setblocking(False)

    def count(self) -> int:
        """Return how many connections have come in so far."""
        for listener in self.sockets:
            while True:
                try:
                    listener.accept()[0].close()
                except BlockingIOError:
                    break
                self.connections += 1
        return self.connections


@pytest.fixture(scope="module")
def traps() -> Iterator[Traps]:
    with ExitStack() as stack:
        yield Traps(stack)


def attempt(url: str, lookup: Lookup | None = None, **http: object) -> Fetched:
    """Fetch as a worker does, from the text of a list on, with the defaults of the spec."""
    parsed = parse_urls(pa.array([url]))
    spec = HttpSpec.model_validate({"timeout_s": 5, **http})
    resolver = None if lookup is None else Resolver(lookup)

    async def scenario() -> Fetched:
        async with Client(spec, ByteBudget(1_000_000), resolver) as client:
            return await client.get(parsed.normalised[0] or "")

    if parsed.normalised[0] is None:
        assert parsed.error[0]
        return run_on("uvloop", _refused())
    return run_on("uvloop", scenario())


async def _refused() -> Fetched:
    return not_fetched(Outcome.URL, "refused when the list was read")


def test_a_trap_sees_a_connection_when_there_is_one(traps: Traps) -> None:
    before = traps.count()
    attempt(f"http://127.0.0.1:{traps.port}/", allow_private_addresses=True, robots="ignore", timeout_s=2)
    assert traps.count() > before


@pytest.mark.parametrize("robots", ["respect", "ignore"])
@pytest.mark.parametrize("host", LITERALS)
def test_no_notation_of_a_special_address_opens_a_connection(traps: Traps, host: str, robots: str) -> None:
    before = traps.count()
    place, path = (host, "/a.jpg") if host.endswith(("\t",)) else (f"{host}:{traps.port}", "/a.jpg")
    fetched = attempt(f"http://{place}{path}", robots=robots, timeout_s=0.5, connect_timeout_s=0.4, retries=0)
    assert fetched.outcome in {
        Outcome.URL,
        Outcome.ADDRESS,
        Outcome.NO_SUCH_HOST,
        Outcome.DNS,
        Outcome.TIMEOUT,
    }
    assert traps.count() == before
    assert "secret" not in f"{fetched.detail}{fetched.final_url}"


@pytest.mark.parametrize("url", OTHER_SCHEMES)
def test_only_http_and_https_are_requested(url: str) -> None:
    assert attempt(url).outcome is Outcome.URL


@pytest.mark.parametrize("host", [*LITERALS[:12], *LITERALS[22:24], *LITERALS[26:38], *LITERALS[42:47]])
def test_no_redirect_leads_to_a_special_address(traps: Traps, host: str) -> None:
    """The origin passes for a public server: its own address alone is let through."""
    before = traps.count()
    with Origin({"a.jpg": b"x"}, address="127.0.0.9") as origin:
        target = f"http://{host}:{traps.port}/a.jpg"
        spec = HttpSpec(robots="ignore", timeout_s=1, connect_timeout_s=0.8)

        async def scenario() -> Fetched:
            async with _NearClient(spec, ByteBudget(1_000_000)) as client:
                return await client.get(origin.url("a.jpg", "redirect_to", to=target))

        fetched = run_on("uvloop", scenario())
    assert origin.hits.total() == 1
    assert fetched.outcome in {
        Outcome.REDIRECT,
        Outcome.ADDRESS,
        Outcome.URL,
        Outcome.NO_SUCH_HOST,
        Outcome.DNS,
    }
    assert traps.count() == before


@pytest.mark.parametrize("target", [*OTHER_SCHEMES[:6], "http://1.1.1.1:22/", "http://1.1.1.1:25/x"])
def test_no_redirect_leads_to_another_scheme_or_protocol(target: str) -> None:
    with Origin({"a.jpg": b"x"}) as origin:
        fetched = attempt(
            origin.url("a.jpg", "redirect_to", to=target), allow_private_addresses=True, robots="ignore"
        )
    assert fetched.outcome in {Outcome.REDIRECT, Outcome.ADDRESS}
    assert len(fetched.redirects) <= 1


class _NearClient(Client):
    """A client for which 127.0.0.9 is a public address."""

    @staticmethod
    def gate(info: AddressInfo) -> socket.socket:
        return any_socket(info) if info[4][0] == "127.0.0.9" else public_socket(info)


class _Rebinding(BaseResolver):  # type: ignore[misc]
    """A name server that gives a public address first and a private one ever after."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers
        self.asked = 0

    def resolve(self, request: DNSRecord, handler: object) -> DNSRecord:
        reply = request.reply()
        address = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=0))
        return reply


def lookup_at(port: int) -> Lookup:
    """Return a lookup that asks the name server on a port of loopback."""

    def lookup(host: str, family: int) -> tuple[str, ...]:
        answer = DNSRecord.parse(DNSRecord.question(host).send("127.0.0.1", port, timeout=2))
        return tuple(str(record.rdata) for record in answer.rr)

    return lookup


@pytest.mark.parametrize(
    "answers", [["127.0.0.1"], ["192.0.2.1", "127.0.0.1"], ["10.0.0.1", "127.0.0.2"], ["0.0.0.0"]]
)
def test_a_name_that_changes_its_address_reaches_nothing_private(traps: Traps, answers: list[str]) -> None:
    before = traps.count()
    server = DNSServer(zone := _Rebinding(answers), address="127.0.0.1", port=0)
    server.start_thread()
    try:
        lookup = lookup_at(server.server.server_address[1])
        spec = HttpSpec(robots="ignore")
        # Every lookup counts: the time stands so far ahead each time that nothing is remembered.
        ticks = iter(range(0, 10_000_000, 10_000))

        async def scenario() -> list[Fetched]:
            resolver = Resolver(lookup, clock=lambda: float(next(ticks)))
            async with Client(spec, ByteBudget(1_000_000), resolver) as client:
                return [await client.get(f"http://rebind.example:{traps.port}/a.jpg") for _ in range(3)]

        outcomes = [fetched.outcome for fetched in run_on("uvloop", scenario())]
    finally:
        server.stop()
        server.server.server_close()
    assert outcomes == [Outcome.ADDRESS] * 3
    assert zone.asked >= 3
    assert traps.count() == before


@pytest.mark.parametrize("port", [22, 25, 6667, 10080])
def test_ports_of_other_protocols_are_not_asked(port: int) -> None:
    fetched = attempt(f"http://127.0.0.1:{port}/", allow_private_addresses=True)
    assert (fetched.outcome, fetched.detail) == (Outcome.ADDRESS, f"port {port} is not one of the web")


def test_ports_may_be_narrowed() -> None:
    with Origin({"a.jpg": b"x"}) as origin:
        limits: dict[str, Any] = {**LIMITS, "ports": (8080,)}
        assert (
            attempt(origin.url("a.jpg"), **limits).detail == f"port {origin.port} is not in fetch.http.ports"
        )
        assert attempt(origin.url("a.jpg"), **{**limits, "ports": (origin.port,)}).body == b"x"


def test_the_proxies_of_the_environment_and_netrc_are_not_used(
    traps: Traps, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    before = traps.count()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{traps.port}")
    netrc = f"{tmp_path}/netrc"
    with open(netrc, "w") as file:  # noqa: PTH123
        file.write("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", netrc)
    with Origin({"a.jpg": b"x"}) as origin:
        assert attempt(origin.url("a.jpg"), **LIMITS).body == b"x"
        assert "authorization" not in origin.received[0].headers
    assert traps.count() == before


def test_a_proxy_of_the_spec_is_used_and_reaches_no_special_literal() -> None:
    with Origin({"a.jpg": b"x"}) as proxy:
        fetched = attempt("http://public.example/a.jpg", proxy=proxy.base, robots="ignore")
        refused = attempt("http://169.254.169.254/a.jpg", proxy=proxy.base, robots="ignore")
        assert [request.target for request in proxy.received] == ["http://public.example/a.jpg"]
    assert fetched.http_status in {200, 404}
    assert (refused.outcome, refused.detail) == (Outcome.ADDRESS, "not a public address")


def test_secret_headers_do_not_follow_a_redirect_to_another_host() -> None:
    headers = {"Authorization": "Bearer secret", "Cookie": "a=b", "X-Api-Key": "k", "X-Reason": "test"}
    with Origin({"a.jpg": b"x"}) as first, Origin({"a.jpg": b"y"}) as second:
        attempt(first.url("a.jpg", "redirect_to", to=second.url("a.jpg")), **{**LIMITS, "headers": headers})
        attempt(first.url("a.jpg", "redirect"), **{**LIMITS, "headers": headers})
        sent = [set(request.headers) & {"authorization", "cookie", "x-api-key"} for request in first.received]
        assert sent == [{"authorization", "cookie", "x-api-key"}] * 3
        assert second.received[0].headers["x-reason"] == "test"
        assert not set(second.received[0].headers) & {"authorization", "cookie", "x-api-key"}


def test_a_header_that_the_spec_calls_secret_does_not_follow_a_redirect_either() -> None:
    secret = {"headers": {"X-Own": "hush", "X-Reason": "test"}, "secret_headers": ["x-own"]}
    with Origin({"a.jpg": b"x"}) as first, Origin({"a.jpg": b"y"}) as second:
        attempt(first.url("a.jpg", "redirect_to", to=second.url("a.jpg")), **{**LIMITS, **secret})
        assert first.received[0].headers["x-own"] == "hush"
        assert second.received[0].headers["x-reason"] == "test"
        assert "x-own" not in second.received[0].headers


def test_secrets_of_an_address_are_not_in_what_is_derived_from_it() -> None:
    with Origin({"a.jpg": b"x"}) as origin:
        target = f"{origin.url('a.jpg')}?X-Amz-Signature=hush&w=3"
        fetched = attempt(origin.url("a.jpg", "redirect_to", to=target, token="hush"), **LIMITS)
        assert fetched.body == b"x"
        assert "X-Amz-Signature=hush" in origin.received[1].target
    assert "hush" not in f"{fetched.redirects}{fetched.final_url}"
    assert fetched.final_url is not None
    assert fetched.final_url.endswith("?X-Amz-Signature=***&w=3")


def test_there_are_enough_attacks_and_they_leave_few_threads(traps: Traps) -> None:
    assert len(LITERALS) + len(OTHER_SCHEMES) >= 60
    assert threading.active_count() < traps.threads + 50
