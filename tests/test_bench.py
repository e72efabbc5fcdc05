"""The benchmarks count what they claim to count: real processes, a real server, real images."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import processes
from processes import PATIENCE_S

ROOT = Path(__file__).resolve().parents[1]

# Burns CPU in a grandchild that its parent does not wait for.
ORPHAN = """
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        started = time.process_time()
        while time.process_time() - started < 0.5: pass
        os._exit(0)
    os._exit(0)
os.wait()
sys.exit(7)
"""


def test_cpu_time_of_orphans_is_counted_and_the_exit_code_kept(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.reaper", str(result), "--", sys.executable, "-c", ORPHAN],
        cwd=ROOT,
        timeout=PATIENCE_S,
        check=False,
    )
    account = json.loads(result.read_text())
    assert (done.returncode, account["exit_code"], account["orphans_killed"]) == (7, 7, 0)
    assert 0.5 <= account["user_s"] + account["system_s"] < 1.5


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the port of the faulty server: 50 ms of latency, slow bodies over 2 s, one file."""
    site = tmp_path_factory.mktemp("site")
    (site / "a.jpg").write_bytes(bytes(range(256)) * 8)
    command = [sys.executable, "-m", "bench.faulty_server", "--root", str(site), "--faults"]
    command += ["--latency-ms", "50", "--dribble-s", "2"]
    with processes.started(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.terminate()
        assert server.wait(PATIENCE_S) == 0


@pytest.fixture
def connection(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    yield connection
    connection.close()


def get(connection: http.client.HTTPConnection, target: str) -> tuple[int, bytes, float]:
    """Return status, body and seconds."""
    started_s = time.monotonic()
    connection.request("GET", target)
    response = connection.getresponse()
    body = response.read()
    return response.status, body, time.monotonic() - started_s


def test_answers_wait_for_the_latency_and_the_connection_is_kept(
    connection: http.client.HTTPConnection,
) -> None:
    for number in (1, 2, 3):
        status, body, took_s = get(connection, f"/a.jpg?n={number}")
        assert (status, body) == (200, bytes(range(256)) * 8)
        assert took_s >= 0.05
        assert connection.sock is not None


def test_the_number_of_a_request_decides_its_fault(connection: http.client.HTTPConnection) -> None:
    assert get(connection, "/a.jpg?n=113")[0] == 404
    with pytest.raises(ConnectionResetError):
        get(connection, "/a.jpg?n=237")


def test_a_slow_body_arrives_whole_over_its_time(connection: http.client.HTTPConnection) -> None:
    status, body, took_s = get(connection, "/a.jpg?n=61")
    assert (status, body) == (200, bytes(range(256)) * 8)
    assert took_s >= 1.0


def test_the_server_tells_when_requests_came(connection: http.client.HTTPConnection) -> None:
    get(connection, "/-/reset")
    before_s = time.monotonic()
    get(connection, "/a.jpg?n=1")
    get(connection, "/a.jpg?n=2")
    marks = json.loads(get(connection, "/-/marks")[1])
    assert marks["requests"] == 2
    assert before_s <= marks["arrivals_monotonic_s"][0] < marks["arrivals_monotonic_s"][1] <= time.monotonic()
    assert marks["peak_in_flight"] == 1
