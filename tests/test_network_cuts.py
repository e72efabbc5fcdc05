"""A node that loses the network, in every way: no row is lost, and the run goes on by itself."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import processes
from album import album
from jobs import amid, job_spec, ledger, wait_for_hits, write_list
from namespaces import Cut, Web, address, may_use_namespaces
from origin import Origin
from processes import descendants, finished, kill
from turbo_fetch.spec.specfile import dump_spec

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not may_use_namespaces(), reason="network namespaces need root"),
]

ROWS = 600
LONG_S = 1.0
"""That an answer takes while the network is cut, so that a run is not over by then; less than a request may take."""
ALBUM = album(40, side=48)


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with Web() as web:
        yield web


@pytest.fixture
def origin(web: Web) -> Iterator[Origin]:
    origin = Origin(ALBUM, latency_s=0.05, address="0.0.0.0")
    web.inside(origin.__enter__)
    yield origin
    origin.__exit__(None, None, None)


def start(web: Web, urls: list[str], folder: Path, workers: int = 1, **http: Any) -> subprocess.Popen[str]:
    """Start a run on the node that allows no retries, so that each failure would be a row's last."""
    list_of_urls = write_list(folder / "list.parquet", urls)
    http = {"concurrency": 16, "timeout_s": 4, "connect_timeout_s": 2, "retries": 0, **http}
    spec = job_spec(
        list_of_urls,
        folder / "out",
        http=http,
        output={"samples_per_shard": 200},
        engine={"workers": workers, "threads": 1},
        image={"encode": "original", "mode": "no"},
    )
    job = folder / "job.toml"
    job.write_text(dump_spec(spec))
    command = [*web.node, sys.executable, "-m", "turbo_fetch", "run", str(job)]
    return processes.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def addresses(origin: Origin, hosts: int, rows: int = ROWS, *, named: bool) -> list[str]:
    names = list(ALBUM)
    host = "h{}.example".format if named else address
    return [
        f"http://{host(row % hosts)}:{origin.port}/{names[row % len(names)]}?{row}" for row in range(rows)
    ]


def check(process: subprocess.Popen[str], folder: Path, rows: int = ROWS) -> str:
    """Check that every row is there, once, as if nothing had been; return what was told."""
    out, err = finished(process)
    assert process.returncode == 0, err + out
    found = ledger(folder / "out")
    assert len(found) == rows
    assert Counter((row["outcome"], row["detail"]) for row in found) == {("success", None): rows}, err
    assert {row["attempts"] for row in found} == {1}
    return out + err


@pytest.mark.parametrize(
    ("kind", "seconds", "hosts", "named"),
    [
        ("silent", 1.0, 300, False),
        ("silent", 3.0, 300, True),
        ("unreachable", 5.0, 300, False),
        ("interface", 2.0, 1, False),
        ("silent", 6.0, 1, True),
        ("resolver refuses", 4.0, ROWS, True),
        ("resolver silent", 8.0, ROWS, True),
    ],
)
def test_a_cut_loses_no_row_and_the_run_goes_on(
    web: Web, origin: Origin, tmp_path: Path, kind: Cut, seconds: float, hosts: int, named: bool
) -> None:
    process = start(web, addresses(origin, hosts, named=named), tmp_path)
    wait_for_hits(process, origin, 150)
    with origin.slowed(LONG_S):
        web.cut(kind)
    time.sleep(seconds)
    web.mend()
    mended_s = time.monotonic()
    wait_for_hits(process, origin, 20)
    assert time.monotonic() - mended_s < 60
    told = check(process, tmp_path)
    # A shorter one may be over before it is certain.
    if seconds >= 8:
        assert re.search(r"outage: .*the outage is over", " ".join(told.split()))


def test_a_worker_that_begins_while_there_is_no_network_loses_no_row(
    web: Web, origin: Origin, tmp_path: Path
) -> None:
    """It has never heard anybody itself."""
    process = start(web, addresses(origin, 300, named=False), tmp_path, workers=2)
    wait_for_hits(process, origin, 150)
    with origin.slowed(LONG_S):
        web.cut("silent")
    kill(descendants(process, "turbo_fetch.runners")[0])
    time.sleep(12)
    web.mend()
    assert "a new worker resumes its shards" in check(process, tmp_path)


def test_a_run_that_is_resumed_while_there_is_no_network_loses_no_row(
    web: Web, origin: Origin, tmp_path: Path
) -> None:
    urls = addresses(origin, 300, named=False)
    process = start(web, urls, tmp_path)
    with amid(process, origin, 150):
        process.kill()
    process.communicate()
    web.cut("silent")
    again = start(web, urls, tmp_path)
    time.sleep(12)
    web.mend()
    check(again, tmp_path)


def test_a_run_stops_when_its_patience_is_over_and_resumes_without_loss(
    web: Web, origin: Origin, tmp_path: Path
) -> None:
    urls = addresses(origin, 300, named=False)
    process = start(web, urls, tmp_path, network_patience_s=4)
    wait_for_hits(process, origin, 150)
    with origin.slowed(LONG_S):
        web.cut("silent")
    _, err = finished(process)
    web.mend()
    assert process.returncode == 1, err
    assert "This machine reaches no host" in err
    assert "run the same command again to resume" in " ".join(err.split())
    check(start(web, urls, tmp_path, network_patience_s=4), tmp_path)


def test_hosts_that_die_of_their_own_end_their_rows_and_the_run(
    web: Web, origin: Origin, tmp_path: Path
) -> None:
    """The only two hosts of a list fall silent for good, but their names can still be looked up."""
    process = start(
        web, addresses(origin, 2, rows=300, named=True), tmp_path, timeout_s=1, connect_timeout_s=1
    )
    wait_for_hits(process, origin, 100)
    with origin.slowed(LONG_S / 2):
        web.cut("two hosts")
    out, err = finished(process)
    web.mend()
    assert process.returncode == 0, err
    outcomes = Counter(row["outcome"] for row in ledger(tmp_path / "out"))
    assert outcomes.total() == 300
    assert outcomes["timeout"] > 100
    assert "outage" not in out + err
