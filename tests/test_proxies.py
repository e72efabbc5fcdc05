"""Proxies: which one leads to a host, as curl and urllib have it, and whose fault it is when none does."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

import turbo_fetch
from album import album
from fetching import LIMITS
from jobs import job_spec, write_list
from loops import run_on
from origin import Origin
from proxy import Proxy
from turbo_fetch.causes import local_cause
from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.addresses import is_special_host
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.proxies import Exceptions, Proxies, proxy_address, unused
from turbo_fetch.fetch.resolver import Resolver
from turbo_fetch.img2dataset.translation import translate
from turbo_fetch.outcomes import Outcome
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import HttpSpec

PUBLIC = "93.184.215.14"
"""An address that may be asked for; nothing is sent there, for the proxies of these tests lead to loopback."""


def fetch(
    url: str, environment: dict[str, str] | None = None, loop: str = "uvloop", **http: Any
) -> tuple[Outcome, str | None, bytes | None]:
    """Fetch as a worker does; every name is PUBLIC."""
    spec = HttpSpec.model_validate({**LIMITS, "connect_timeout_s": 1, **http})
    proxies = Proxies.of(spec.proxy, environment or {})

    resolver = Resolver(lambda host, family: ("127.0.0.1",) if host == "localhost" else (PUBLIC,))
    client_of_test = Client(spec, ByteBudget(1_000_000), resolver, proxies=proxies)

    async def scenario() -> Fetched:
        async with client_of_test as client:
            return await client.get(url)

    fetched = run_on(loop, scenario())
    return fetched.outcome, fetched.detail, None if fetched.body is None else bytes(fetched.body)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin({"a.jpg": b"x"}) as origin:
        yield origin


@pytest.fixture(scope="module")
def secure() -> Iterator[Origin]:
    with Origin({"a.jpg": b"y"}, tls=True, names=("images.example",)) as origin:
        yield origin


SCHEMES = ["http", "socks4", "socks4a", "socks5", "socks5h"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_every_kind_of_proxy_leads_to_http_and_https(
    origin: Origin, secure: Origin, tmp_path: Path, scheme: str, loop: str
) -> None:
    authority = str(secure.write_authority(tmp_path))
    hosts = {"images.example": ("127.0.0.1", origin.port), PUBLIC: ("127.0.0.1", origin.port)}
    safe = dict.fromkeys(hosts, ("127.0.0.1", secure.port))
    public: dict[str, Any] = {"allow_private_addresses": False, "ca_file": authority, "loop": loop}
    with Proxy(hosts) as proxy, Proxy(safe) as tunnel:
        assert fetch("http://images.example/a.jpg", proxy=proxy.url(scheme), **public)[2] == b"x"
        assert fetch("https://images.example/a.jpg", proxy=tunnel.url(scheme), **public)[2] == b"y"
        resolves_here = scheme in {"socks4", "socks5"}
        assert tunnel.asked == [f"{PUBLIC if resolves_here else 'images.example'}:443"]
        assert set(tunnel.kinds) == {"CONNECT" if scheme == "http" else scheme.rstrip("ha")}


@pytest.mark.parametrize("robots", ["respect", "ignore"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_proxy_is_told_the_host_of_each_request(loop: str, robots: str) -> None:
    # RFC 9112, 3.2: the Host of a request is the authority of its target; proxies that pass it on lead elsewhere else.
    hosts = (
        "a.example",
        "b.example:8080",
        "c.example",
        "a.example",
        PUBLIC,
        "[2606:4700::1111]",
        "c.example",
    )
    with Origin({"a.jpg": b"x"}) as proxy:
        spec = HttpSpec.model_validate({**LIMITS, "robots": robots, "proxy": proxy.base})
        client_of_test = Client(spec, ByteBudget(1_000_000))

        async def scenario() -> list[Fetched]:
            async with client_of_test as client:
                return [await client.get(f"http://{host}/a.jpg") for host in hosts]

        fetched = run_on(loop, scenario())
    assert [one.outcome for one in fetched] == [Outcome.SUCCESS] * len(hosts)
    asked = [(urlsplit(one.target).netloc, one.headers["host"]) for one in proxy.received]
    assert len(asked) == len(hosts) + (len(set(hosts)) if robots == "respect" else 0)
    assert all(target == host for target, host in asked), asked


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_proxy_may_speak_tls(origin: Origin, secure: Origin, tmp_path: Path, loop: str) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    both = tmp_path / "both.pem"
    both.write_bytes(authority.cert_pem.bytes() + secure.authority_pem)
    with Proxy({"images.example": ("127.0.0.1", secure.port)}, tls=context) as proxy:
        options: dict[str, Any] = {"proxy": proxy.url("https"), "ca_file": str(both), "loop": loop}
        assert fetch(origin.url("a.jpg"), **options)[2] == b"x"
        assert fetch("https://images.example/a.jpg", **options)[2] == b"y"
        strange = fetch(origin.url("a.jpg"), proxy=proxy.url("https"), loop=loop)
    assert strange[:2] == (Outcome.CONNECT, "proxy: certificate verify failed")


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
def test_user_and_password_of_a_proxy_are_sent_decoded_and_a_wrong_one_is_the_proxys_refusal(
    origin: Origin, scheme: str
) -> None:
    with Proxy(login="me:p@ss/w:rd") as proxy:
        right = fetch(origin.url("a.jpg"), proxy=proxy.url(scheme, "me:p%40ss%2Fw%3Ard"))
        wrong = fetch(origin.url("a.jpg"), proxy=proxy.url(scheme, "me:hush"))
        none = fetch(origin.url("a.jpg"), proxy=proxy.url(scheme))
    assert right[2] == b"x"
    for outcome, detail, _ in (wrong, none):
        assert outcome is Outcome.CONNECT
        assert (detail or "").startswith("proxy refused: ")
        assert "hush" not in (detail or "")
        assert local_cause(outcome, detail) == "proxy"


FAULTS = [
    # What the proxy does, for http, for https, what it means.
    ({"refuses": 407}, "proxy refused: 407 Proxy Authentication Required", None, "proxy"),
    ({"refuses": 403}, None, "proxy refused: 403 Forbidden", "proxy"),
    ({"refuses": 502}, None, "through the proxy: 502 Bad Gateway", "tunnel"),
    ({"refuses": 504}, None, "through the proxy: 504 Gateway Timeout", "tunnel"),
    ({"closes": True}, *["through the proxy: connection closed before the response"] * 2, "tunnel"),
    ({"hangs": True}, None, "through the proxy: no connection within 0.5 s", "tunnel"),
]


@pytest.mark.parametrize(("fault", "plain", "tunnelled", "cause"), FAULTS)
def test_the_faults_of_an_http_proxy_are_not_called_those_of_the_host(
    origin: Origin, fault: dict[str, Any], plain: str | None, tunnelled: str | None, cause: str
) -> None:
    with Proxy(**fault) as proxy:
        options: dict[str, Any] = {"proxy": proxy.url(), "connect_timeout_s": 0.5}
        if plain is not None:
            outcome, detail, _ = fetch(origin.url("a.jpg"), **options)
            assert (detail, local_cause(outcome, detail)) == (plain, cause)
        outcome, detail, _ = fetch("https://images.example/a.jpg", **options)
        assert detail == (tunnelled or plain)
        assert local_cause(outcome, detail) == cause
        assert outcome in {Outcome.CONNECT, Outcome.TIMEOUT}


@pytest.mark.parametrize(
    ("scheme", "reply", "detail", "cause"),
    [
        ("socks5h", 1, "through the proxy: general SOCKS server failure", "tunnel"),
        ("socks5h", 2, "proxy refused: connection not allowed by ruleset", "proxy"),
        ("socks5h", 4, "through the proxy: host unreachable", "tunnel"),
        ("socks5h", 99, "proxy refused: invalid reply code: 0x63", "proxy"),
        ("socks4a", 0x5B, "through the proxy: request rejected or failed", "tunnel"),
    ],
)
def test_the_replies_of_socks_say_whose_fault_it_is(scheme: str, reply: int, detail: str, cause: str) -> None:
    with Proxy(refuses=reply) as proxy:
        outcome, found, _ = fetch("http://images.example/a.jpg", proxy=proxy.url(scheme))
    assert ((found or "").lower(), local_cause(outcome, found)) == (detail.lower(), cause)


@pytest.mark.parametrize("scheme", ["http", "https", "socks4a", "socks5"])
def test_a_dead_proxy_is_named_and_nobody_else(scheme: str) -> None:
    for url in ("http://images.example/a.jpg", "https://images.example/a.jpg"):
        found = fetch(url, proxy=f"{scheme}://127.0.0.1:1")
        assert found[:2] == (Outcome.CONNECT, "proxy: connection refused")


def test_the_answers_of_hosts_stay_theirs_behind_a_proxy(origin: Origin, secure: Origin) -> None:
    with Proxy({"images.example": ("127.0.0.1", secure.port)}) as proxy:
        assert fetch(origin.url("b.jpg"), proxy=proxy.url())[0] is Outcome.HTTP_4XX
        assert fetch(origin.url("a.jpg", "status", code=503), proxy=proxy.url())[0] is Outcome.HTTP_5XX
        assert fetch("https://images.example/a.jpg", proxy=proxy.url())[:2] == (
            Outcome.TLS,
            "certificate verify failed: unable to get local issuer certificate",
        )
        assert fetch(origin.url("a.jpg", "truncated"), proxy=proxy.url())[0] is Outcome.TRUNCATED


ODD = ["2852039166", "127.1", "0x7f000001", "127.0.0.1.", "127.0.0.1..", "%31%32%37.0.0.1", "[::ffff:7f00:1]",
       "localhost.", "%6cocalhost", "a.localhost.", "0", "0177.0.0.1.", "[fe80::1%25lo]", "[::ffff:10.0.0.1]",
       "[64:ff9b::7f00:1]",
       "127.0.0.1%2e", "10.1", "0xA9.0xFE.0xA9.0xFE", "192.168.0.1", "127。0。0。1", "①②⑦.⓪.⓪.①"]  # fmt: skip


@pytest.mark.parametrize("host", ODD)
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_no_notation_of_a_special_address_reaches_a_proxy(origin: Origin, host: str, scheme: str) -> None:
    routes = {"images.example": ("127.0.0.1", origin.port)}
    with Proxy(routes) as proxy:
        public: dict[str, Any] = {"proxy": proxy.url(scheme), "allow_private_addresses": False}
        path = f"/a.jpg?fault=redirect_to&to=http%3A%2F%2F{host.replace('%', '%25')}%2Fa.jpg"
        outcome, *_ = fetch(f"http://images.example{path}", **public)
        assert outcome in {Outcome.ADDRESS, Outcome.REDIRECT, Outcome.URL}
        assert proxy.asked == [f"images.example{':80' if scheme != 'http' else ''}"]


def test_names_resolved_here_are_asked_of_a_socks_proxy_by_public_addresses_alone(origin: Origin) -> None:
    with Proxy() as proxy:
        found = fetch(
            f"http://localhost:{origin.port}/a.jpg", proxy=proxy.url("socks5"), allow_private_addresses=False
        )
        assert (found[:2], proxy.asked) == ((Outcome.ADDRESS, "not a public address"), [])


@given(
    st.integers(0, 2**32 - 1), st.sampled_from(["{}", "0x{:x}", "0{:o}"]), st.sampled_from(["", ".", "%2e"])
)
def test_numbers_are_the_addresses_that_they_stand_for(number: int, notation: str, dot: str) -> None:
    from ipaddress import IPv4Address

    from turbo_fetch.fetch.addresses import is_public

    assert is_special_host(notation.format(number) + dot) is not is_public(str(IPv4Address(number)))


def test_the_environment_is_read_as_urllib_and_curl_do() -> None:
    one, two, three = "http://one:1", "http://two:2", "http://three:3"
    cases: list[tuple[dict[str, str], tuple[str | None, str | None]]] = [
        ({}, (None, None)),
        ({"HTTP_PROXY": one, "HTTPS_PROXY": two}, (one, two)),
        ({"HTTP_PROXY": one, "http_proxy": two}, (two, None)),
        ({"HTTP_PROXY": one, "http_proxy": ""}, (None, None)),
        ({"all_proxy": three, "https_proxy": two}, (three, two)),
        ({"ALL_PROXY": "socks5h://me:pw@p:9"}, ("socks5h://me:pw@p:9", "socks5h://me:pw@p:9")),
        # A client may set HTTP_PROXY of a CGI script.
        ({"HTTP_PROXY": one, "HTTPS_PROXY": two, "REQUEST_METHOD": "GET"}, (None, two)),
        ({"http_proxy": one, "REQUEST_METHOD": "GET"}, (one, None)),
        ({"http_proxy": "one:1"}, (one, None)),
        ({"http_proxy": " http://one "}, ("http://one:80", None)),
        ({"http_proxy": "socks://one"}, ("socks5://one:1080", None)),
        ({"no_proxy": "*", "http_proxy": one}, (None, None)),
        ({"NO_PROXY": "*", "no_proxy": "", "http_proxy": one}, (one, None)),
    ]
    for environment, expected in cases:
        proxies = Proxies.of("environment", environment)
        found = tuple(proxies.towards(scheme, "images.example") for scheme in ("http", "https"))
        assert found == expected, environment


@pytest.mark.parametrize(
    "value", ["ftp://p:1", "http://", "http://p:x", "http://p/path", "socks6://p", "http://a b"]
)
def test_what_names_no_proxy_is_refused_with_what_was_expected(value: str) -> None:
    assert proxy_address(value) is None
    with pytest.raises(SpecError, match=r"HTTPS_PROXY is .*; expected http://host:port"):
        Proxies.of("environment", {"HTTPS_PROXY": value})
    with pytest.raises(ValueError, match="proxy"):
        HttpSpec(proxy=value.replace("http://p:x", "nothing"))


def test_a_masked_password_of_a_proxy_is_not_tried() -> None:
    with pytest.raises(SpecError, match="masked"):
        Proxies.of("http://***@proxy:3128", {})


BYPASS = [
    # NO_PROXY, host, port, whether it is asked without a proxy.
    ("example.com", "example.com", 80, True),
    ("example.com", "www.example.com", 80, True),
    ("example.com", "notexample.com", 80, False),
    (".example.com", "example.com", 80, True),
    (".example.com", "www.example.com", 80, True),
    ("EXAMPLE.com", "www.Example.COM", 80, True),
    ("example.com.", "example.com", 80, True),
    ("example.com", "example.com.", 80, True),
    ("a.org,example.com", "example.com", 80, True),
    ("a.org, example.com", "example.com", 80, True),
    ("a.org example.com", "example.com", 80, True),
    ("*", "anything.org", 80, True),
    ("com", "example.com", 80, True),
    ("ample.com", "example.com", 80, False),
    ("10.0.0.1", "10.0.0.1", 80, True),
    ("0.0.1", "10.0.0.1", 80, False),
    ("10.0.0.0/8", "10.200.0.1", 80, True),
    ("10.0.0.0/8", "11.0.0.1", 80, False),
    ("192.168.0.0/16,10.1.2.0/24", "10.1.2.3", 80, True),
    ("10.0.0.0/8", "10.example.com", 80, False),
    ("", "example.com", 80, False),
    (",,", "example.com", 80, False),
    ("www.example.com", "example.com", 80, False),
]
OURS = [
    ("example.com:8080", "example.com", 8080, True),
    ("example.com:8080", "example.com", 80, False),
    ("example.com:443", "www.example.com", 443, True),
    ("*.example.com", "www.example.com", 80, True),
    ("[::1]", "::1", 80, True),
    ("::1", "::1", 80, True),
    ("[0:0::1]:8080", "::1", 8080, True),
    ("[::1]:8080", "::1", 80, False),
    ("fe80::/10", "fe80::1", 80, True),
    ("10.0.0.0/99", "10.0.0.0", 80, False),
    ("a.org *", "example.com", 80, True),
]


@pytest.mark.parametrize(("text", "host", "port", "expected"), BYPASS + OURS)
def test_no_proxy_names_hosts_suffixes_ports_and_networks(
    text: str, host: str, port: int, expected: bool
) -> None:
    assert Exceptions.parse(text).hold(host, port) is expected


def test_curl_goes_the_same_way() -> None:
    curl = shutil.which("curl")
    assert curl, "curl is the witness of this test"
    with Proxy() as proxy, Origin({"a.jpg": b"x"}) as direct:
        for text, host, _, expected in BYPASS:
            before = len(proxy.asked)
            command = [
                curl,
                "-s",
                "-o",
                os.devnull,
                "--max-time",
                "5",
                "--connect-to",
                f"::127.0.0.1:{direct.port}",
            ]
            subprocess.run(
                [*command, f"http://{host}/a.jpg"],
                env={"http_proxy": proxy.url(), "no_proxy": text},
                check=False,
            )
            assert (len(proxy.asked) == before) is expected, (text, host)


NAMES = st.from_regex(r"[a-c]{1,2}(\.[a-c]{1,2}){0,3}", fullmatch=True)


@given(st.lists(st.builds(str.__add__, st.sampled_from(["", "."]), NAMES), max_size=4), NAMES)
def test_lists_of_names_mean_what_they_mean_to_urllib(entries: list[str], host: str) -> None:
    text = ",".join(entries)
    expected = bool(text) and proxy_bypass_environment(host, {"no": text})
    assert Exceptions.parse(text).hold(host, 80) is expected


def test_hosts_that_no_proxy_names_are_asked_directly_behind_the_gate(origin: Origin) -> None:
    with Proxy() as proxy:
        environment = {"http_proxy": proxy.url(), "no_proxy": "127.0.0.1"}
        assert fetch(origin.url("a.jpg"), environment, proxy="environment")[2] == b"x"
        # Also where the proxy itself is the address: what is not proxied has to be public.
        refused = fetch(
            f"http://127.0.0.1:{proxy.port}/a.jpg",
            environment,
            proxy="environment",
            allow_private_addresses=False,
        )
        assert refused[:2] == (Outcome.ADDRESS, "not a public address")
        assert proxy.asked == []


class _Notes(ProgressListener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_uses_the_proxies_of_the_environment_if_the_spec_says_so_and_keeps_their_secrets(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    images = album(4)
    urls = write_list(tmp_path / "list.parquet", [f"http://images.example/{name}" for name in images])
    with (
        Origin(images) as origin,
        Proxy({"images.example": ("127.0.0.1", origin.port)}, login="me:hush") as proxy,
    ):
        monkeypatch.setenv("http_proxy", proxy.url(login="me:hush"))
        engine = {"workers": workers, "threads": 1}
        spec = job_spec(urls, tmp_path / "out", http={"proxy": "environment"}, engine=engine)
        assert turbo_fetch.run(spec).fetch.successes == 4
        assert len(proxy.asked) >= 4
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert b"hush" not in path.read_bytes(), path
    assert 'proxy = "environment"' in (tmp_path / "out" / ".turbo-fetch/spec.toml").read_text()


def test_a_run_says_which_proxies_it_leaves_alone(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hush@127.0.0.1:1")
    notes = _Notes()
    images = album(1)
    with Origin(images) as here:
        urls = write_list(tmp_path / "list.parquet", [here.url(name) for name in images])
        turbo_fetch.run(job_spec(urls, tmp_path / "out"), notes)
    told = 'HTTPS_PROXY is set but not used; set fetch.http.proxy = "environment" to use them'
    assert [note for note in notes.notes if "PROXY" in note] == [told]
    assert unused("environment", os.environ) is None


def test_the_drop_in_uses_the_proxies_of_the_environment_as_its_model_does() -> None:
    http = translate({"url_list": "list.txt"}).spec.fetch
    assert http is not None
    assert http.http.proxy == "environment"
