"""A run that reaches nobody stops, says why, and has lost nothing; lists of dead hosts run to their end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

import processes
import turbo_fetch
from album import album
from fetching import LIMITS
from jobs import job_spec, ledger, write_list
from loops import run_on
from origin import Origin
from proxy import Proxy
from turbo_fetch.causes import cause_of, local_cause
from turbo_fetch.errors import Unreachable
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client, Fetched
from turbo_fetch.fetch.network import FEW, QUIET_S, STANDSTILL_S
from turbo_fetch.fetch.pool import FetchPool
from turbo_fetch.fetch.request import Request
from turbo_fetch.fetch.resolver import Lookup, Resolver
from turbo_fetch.outcomes import Outcome
from turbo_fetch.progress.outage import HELD_TO_STOP, PATIENCE_S, Outage
from turbo_fetch.progress.tally import Tally
from turbo_fetch.spec import HttpSpec
from turbo_fetch.spec.specfile import dump_spec

DEAD = "http://127.0.0.1:1"


def tally(reason: str, count: int, domains: int = 9, answers: int = 0) -> Tally:
    return Tally(deferred=Counter({reason: count}), deferred_domains=domains, answers=answers)


RESOLVER = "dns: name resolution failed"
PROXY = "connect: proxy: connection refused"


@pytest.mark.parametrize(
    ("tallies", "now_s", "hopeless"),
    [
        ([], 0.0, False),
        ([tally(RESOLVER, HELD_TO_STOP)], 1.0, True),
        ([tally(RESOLVER, HELD_TO_STOP - 1)], 1.0, False),
        # Many rows of a few domains may be of a broken zone; a proxy is the same for all.
        ([tally(RESOLVER, HELD_TO_STOP, domains=2)], 1.0, False),
        ([tally(PROXY, HELD_TO_STOP, domains=1)], 1.0, True),
        # Workers count together.
        ([tally(RESOLVER, 600), tally(RESOLVER, 600)], 1.0, True),
        ([tally(RESOLVER, 600), tally(PROXY, 600)], 1.0, False),
        # Somebody answered a moment ago, or long ago.
        ([tally(RESOLVER, HELD_TO_STOP, answers=1)], 1.0, False),
        ([tally(RESOLVER, HELD_TO_STOP, answers=1)], PATIENCE_S + 1, True),
    ],
)
def test_a_run_is_given_up_when_so_many_rows_meet_a_fault_on_this_side_and_nobody_answers(
    tallies: list[Tally], now_s: float, hopeless: bool
) -> None:
    outage = Outage(PATIENCE_S)
    for worker, each in enumerate(tallies):
        outage.heard(worker, each, 0.0)
    assert outage.is_hopeless(now_s) is hopeless


@pytest.mark.parametrize(
    ("known", "down_s", "hopeless"),
    [
        ({}, 4.0, False),
        ({}, 6.0, True),
        ({"has_witnesses": True}, 6.0, False),
        ({"answers": 1}, 6.0, False),
        ({"has_witnesses": True}, 60.0, True),
    ],
)
def test_an_outage_is_waited_for_where_there_was_a_network(
    known: dict[str, Any], down_s: float, hopeless: bool
) -> None:
    outage = Outage(patience_s=60.0)
    outage.heard(0, Tally(outage=("network", down_s), **known), 0.0)
    assert outage.is_hopeless(1.0) is hopeless


@pytest.mark.parametrize(
    ("outcome", "detail", "cause"),
    [
        (Outcome.DNS, "name resolution failed", "resolver"),
        (Outcome.DNS, "no answer of the resolver within 5 s", "resolver"),
        (Outcome.NO_SUCH_HOST, "no such host", None),
        (Outcome.CONNECT, "connection refused", None),
        (Outcome.CONNECT, "network is unreachable", "network"),
        (Outcome.CONNECT, "no route to host; the host was given up", "network"),
        (Outcome.CONNECT, "proxy: connection refused", "proxy"),
        (Outcome.CONNECT, "through the proxy: 502 Bad Gateway; the host was given up", "tunnel"),
        (Outcome.TIMEOUT, "no connection within 5 s", None),
        (Outcome.HTTP_4XX, "HTTP Error 407: Proxy Authentication Required", None),
        (Outcome.SUCCESS, None, None),
    ],
)
def test_a_failure_is_of_this_side_or_of_the_host(outcome: Outcome, detail: str, cause: str | None) -> None:
    assert local_cause(outcome, detail) == cause
    assert cause_of(f"{outcome.label}: {detail or ''}") == cause


def names(count: int, domains: int = 50) -> list[str]:
    return [f"http://pictures{number % domains}.example/{number}.jpg" for number in range(count)]


def dead_proxy_spec(urls: Path, output: Path, **http: Any) -> Any:
    return job_spec(
        urls,
        output,
        http={"proxy": DEAD, "retries": 0, "concurrency": 64, **http},
        output={"samples_per_shard": 200},
    )


def test_a_dead_proxy_stops_the_run_and_the_rows_are_asked_for_when_it_lives(tmp_path: Path) -> None:
    images = album(3)
    paths = [f"{list(images)[number % 3]}?{number}" for number in range(1500)]
    urls = write_list(tmp_path / "list.parquet", [f"http://images.example/{path}" for path in paths])
    as_is: dict[str, dict[str, Any]] = {
        "engine": {"workers": 2, "threads": 1},
        "image": {"encode": "original", "mode": "no"},
    }
    spec = job_spec(urls, tmp_path / "out", http={"proxy": DEAD, "retries": 0}, **as_is)
    with pytest.raises(
        Unreachable, match=r"proxy: connection refused.*fetch.http.proxy.*run the same command again"
    ):
        turbo_fetch.run(spec)
    assert ledger(tmp_path / "out") == []
    with Origin(images) as origin, Proxy({"images.example": ("127.0.0.1", origin.port)}) as proxy:
        http = {"proxy": proxy.url(), "retries": 0}
        again = turbo_fetch.run(job_spec(urls, tmp_path / "out", http=http, **as_is)).fetch
    assert (again.rows, again.successes) == (1500, 1500)


def test_no_row_of_a_short_list_is_recorded_behind_a_dead_proxy(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", names(150))
    with pytest.raises(Unreachable, match="proxy: connection refused"):
        turbo_fetch.run(dead_proxy_spec(urls, tmp_path / "out"))
    assert ledger(tmp_path / "out") == []


def run_pool(
    lookup: Lookup, requests: list[Request], http: dict[str, Any], stands_still_s: float = 0.0
) -> dict[int, Fetched]:
    """Fetch through a pool until all rows have ended, as a worker does at the end of its list."""
    spec = HttpSpec.model_validate({**LIMITS, "connect_timeout_s": 5, "backoff_s": 0.01, **http})
    client_of_test = Client(spec, ByteBudget(10_000_000), Resolver(lookup))
    ended: dict[int, Fetched] = {}
    whole = asyncio.Event()

    def done(row: int, fetched: Fetched) -> None:
        assert row not in ended
        ended[row] = fetched
        client_of_test.budget.release(len(fetched.body or b""))
        if len(ended) == len(requests):
            whole.set()

    async def scenario() -> None:
        async with client_of_test as client:
            pool = FetchPool(client, spec)
            running = asyncio.ensure_future(pool.run())
            pool.submit(requests, done)
            pool.expect_no_more()
            asyncio.get_running_loop().call_later(0.2, sleep, stands_still_s)
            await whole.wait()
            running.cancel()
            await asyncio.wait({running})

    run_on("uvloop", scenario())
    return ended


def test_rows_that_met_a_resolver_that_was_down_are_asked_again_and_no_attempt_counts() -> None:
    asked_s: list[float] = []

    def lookup(host: str, family: int) -> tuple[str, ...]:
        asked_s.append(monotonic())
        if host.startswith("gone") or 0.5 < asked_s[-1] - asked_s[0] < 0.5 + 3 * QUIET_S:
            raise socket.gaierror(socket.EAI_AGAIN, "failed")
        return ("127.0.0.1",)

    with Origin({"a.jpg": b"y"}, latency_s=0.05) as origin:
        requests = [
            Request(row, f"http://n{row}.example:{origin.port}/a.jpg", f"d{row}") for row in range(40)
        ]
        requests.append(Request(40, f"http://gone.example:{origin.port}/a.jpg", "gone"))
        ended = run_pool(lookup, requests, {"retries": 0, "concurrency": 2, "per_domain": 1})
    assert ended.pop(40).outcome is Outcome.DNS
    assert {(fetched.outcome, fetched.attempts) for fetched in ended.values()} == {(Outcome.SUCCESS, 1)}
    assert monotonic() - asked_s[0] > 3 * QUIET_S


@pytest.mark.parametrize("fault", [None, "truncated", "reset_before_headers"])
def test_what_was_under_way_while_the_process_stood_still_is_asked_again_and_no_attempt_counts(
    fault: str | None,
) -> None:
    """Deadlines went by meanwhile that no host missed, and connections ended that nobody attended to."""
    with Origin({"a.jpg": b"y" * 100}, latency_s=0.3) as origin:
        urls = [
            origin.url("a.jpg", fault, times=1, row=row) if fault else origin.url("a.jpg") for row in range(2)
        ]
        requests = [Request(row, url, "d") for row, url in enumerate(urls)]
        http = {"retries": 0, "concurrency": 2, "timeout_s": 1.0, "stall_timeout_s": 0.8}
        ended = run_pool(lambda *_: ("127.0.0.1",), requests, http, stands_still_s=STANDSTILL_S + 0.5)
    assert {(fetched.outcome, fetched.attempts) for fetched in ended.values()} == {(Outcome.SUCCESS, 1)}


def test_while_there_is_nothing_else_to_do_a_row_asks_whether_anybody_answers() -> None:
    """The network is gone after the first answer, and comes back when the rows have failed and one asks again."""
    failures = 0
    rows = 2 * FEW

    def lookup(host: str, family: int) -> tuple[str, ...]:
        nonlocal failures
        if failures < rows:
            failures += 1
            raise socket.gaierror(socket.EAI_AGAIN, "failed")
        return ("127.0.0.1",)

    with Origin({"a.jpg": b"y"}) as origin:
        requests = [Request(0, origin.url("a.jpg"), "first")]
        requests += [
            Request(row, f"http://n{row}.example:{origin.port}/a.jpg", f"d{row}")
            for row in range(1, rows + 1)
        ]
        ended = run_pool(lookup, requests, {"retries": 0, "concurrency": 1})
    outcomes = Counter(fetched.outcome for fetched in ended.values())
    assert outcomes == {Outcome.SUCCESS: rows + 1}


def test_rows_that_fail_while_others_are_answered_end_as_they_did() -> None:
    with Origin({"a.jpg": b"x"}) as origin:

        def lookup(host: str, family: int) -> tuple[str, ...]:
            raise socket.gaierror(socket.EAI_AGAIN, "failed")

        requests = [
            Request(row, f"http://n{row}.example/a.jpg" if row % 2 else origin.url("a.jpg"), f"d{row}")
            for row in range(100)
        ]
        ended = run_pool(lookup, requests, {"retries": 0, "concurrency": 4})
    assert Counter(fetched.outcome for fetched in ended.values()) == {Outcome.SUCCESS: 50, Outcome.DNS: 50}
    assert {fetched.attempts for fetched in ended.values()} == {1}


def test_a_proxy_that_fails_gives_no_host_up() -> None:
    with Proxy(refuses=407) as proxy:
        requests = [Request(row, "http://images.example/a.jpg", "images.example") for row in range(30)]
        ended = run_pool(lambda *_: ("127.0.0.1",), requests, {"retries": 0, "proxy": proxy.url()})
        assert len(proxy.asked) == 30
    assert {fetched.detail for fetched in ended.values()} == {
        "proxy refused: 407 Proxy Authentication Required"
    }


ISOLATED = ["unshare", "--net", "--mount", "--map-root-user"]
"""A network of its own: no interface but loopback, and that is down. Its files are its own to hide, too."""


def _may_isolate() -> bool:
    command = [*ISOLATED, "mount", "--bind", "/etc/resolv.conf", "/etc/resolv.conf"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not _may_isolate(), reason="network namespaces are not allowed here")

NAME_SERVER = """
import subprocess, sys
from dnslib import RCODE
from dnslib.server import BaseResolver, DNSLogger, DNSServer

class Negative(BaseResolver):
    def resolve(self, request, handler):
        reply = request.reply()
        reply.header.rcode = RCODE.NXDOMAIN
        return reply

DNSServer(Negative(), address="127.0.0.1", port=53, logger=DNSLogger("-")).start_thread()
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


def run_isolated(spec: Any, folder: Path, setup: str, *wrapper: str) -> subprocess.CompletedProcess[str]:
    """Run a job in a network namespace of its own."""
    job = folder / "job.toml"
    job.write_text(dump_spec(spec))
    resolv = folder / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
    script = f'mount --bind "{resolv}" /etc/resolv.conf && {setup} && exec "$@"'
    command = [*wrapper, sys.executable, "-m", "turbo_fetch", "run", str(job)]
    return subprocess.run(
        [*ISOLATED, "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=processes.PATIENCE_S,
    )


@needs_namespaces
@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ("pictures{}.example", ["No name can be resolved", "/etc/resolv.conf"]),
        ("93.184.{}.14", ["network is unreachable", "This machine reaches no host"]),
    ],
)
def test_a_machine_without_a_network_is_told_so_and_no_row_is_recorded(
    tmp_path: Path, hosts: str, words: list[str]
) -> None:
    urls = write_list(
        tmp_path / "list.parquet", [f"http://{hosts.format(row % 40)}/{row}.jpg" for row in range(1600)]
    )
    spec = job_spec(urls, tmp_path / "out", http={"retries": 0}, output={"samples_per_shard": 300})
    done = run_isolated(spec, tmp_path, "true")
    assert done.returncode == 1, done.stderr
    assert all(word in done.stderr for word in ["stopped: ", "run the same command again to resume", *words])
    assert ledger(tmp_path / "out") == []


@needs_namespaces
def test_a_list_of_names_that_do_not_exist_runs_to_its_end(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", names(1600))
    spec = job_spec(urls, tmp_path / "out", http={"retries": 0}, output={"samples_per_shard": 800})
    done = run_isolated(spec, tmp_path, "ip link set lo up", sys.executable, "-c", NAME_SERVER)
    assert "failures  no-such-host 1,600" in done.stdout, done.stderr
    assert "all rows have hosts that do not exist" in done.stderr
    assert len(ledger(tmp_path / "out")) == 1600
