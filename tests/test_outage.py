"""A run that reaches nobody stops, says why, and has lost nothing; lists of dead hosts run to their end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import turbo_fetch
from album import album
from jobs import job_spec, ledger, write_list
from origin import Origin
from proxy import Proxy
from turbo_fetch.causes import cause_of, local_cause
from turbo_fetch.errors import Unreachable
from turbo_fetch.outage import HELD_TO_STOP, PATIENCE_S, Outage
from turbo_fetch.outcomes import Outcome
from turbo_fetch.tally import Tally

DEAD = "http://127.0.0.1:1"


def tally(reason: str, count: int, domains: int = 9, answers: int = 0) -> Tally:
    return Tally(held=Counter({reason: count}), held_domains=domains, answers=answers)


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
    outage = Outage()
    for worker, each in enumerate(tallies):
        outage.heard(worker, each, 0.0)
    assert outage.is_hopeless(now_s) is hopeless


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


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dead_proxy_stops_the_run_and_the_rows_are_asked_for_when_it_lives(
    tmp_path: Path, workers: int
) -> None:
    pictures = album(3)
    paths = [f"{list(pictures)[number % 3]}?{number}" for number in range(1500)]
    urls = write_list(tmp_path / "list.parquet", [f"http://pictures.example/{path}" for path in paths])
    engine = {"workers": workers, "threads": 1}
    spec = job_spec(urls, tmp_path / "out", http={"proxy": DEAD, "retries": 0}, engine=engine)
    with pytest.raises(
        Unreachable, match=r"proxy: connection refused.*fetch.http.proxy.*run the same command again"
    ):
        turbo_fetch.run(spec)
    assert ledger(tmp_path / "out") == []
    with Origin(pictures) as origin, Proxy({"pictures.example": ("127.0.0.1", origin.port)}) as proxy:
        http = {"proxy": proxy.url(), "retries": 0}
        again = turbo_fetch.run(job_spec(urls, tmp_path / "out", http=http, engine=engine)).fetch
    assert (again.rows, again.successes) == (1500, 1500)


def test_a_short_list_runs_to_its_end_behind_a_dead_proxy(tmp_path: Path) -> None:
    urls = write_list(tmp_path / "list.parquet", names(150))
    summary = turbo_fetch.run(dead_proxy_spec(urls, tmp_path / "out")).fetch
    assert summary.outcomes == {"connect": 150}
    assert {row["detail"] for row in ledger(tmp_path / "out")} == {"proxy: connection refused"}
