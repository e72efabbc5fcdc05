"""`turbo-fetch doctor`: advice follows from what was measured."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from origin import Origin
from proxy import Proxy
from turbo_fetch.doctor import advice
from turbo_fetch.doctor.accelerator import Accelerator
from turbo_fetch.doctor.probe import Lookups, Machine, measure, measure_lookups
from turbo_fetch.doctor.proxy import ProxyCheck, ask_through, check_proxies

MACHINE = Machine(
    lookups=Lookups(15, 0, 0.1),
    open_files=65_536,
    open_files_hard=65_536,
    cores=8,
    cores_total=8,
    resolver_threads=64,
    memory_bytes=32_000_000_000,
    memory_free_bytes=16_000_000_000,
    disk_free_bytes=500_000_000_000,
    disk="/data",
    python="3.11.7",
    system="Linux",
    versions={},
)
GPU = Accelerator("cuda", "A100", 40_000_000_000, "bf16", "xformers", True, {})


def test_a_good_machine_gets_no_advice() -> None:
    found = list(advice.findings(MACHINE, GPU))
    assert [finding.name for finding in found] == [
        "resolver",
        "open files",
        "cores",
        "memory",
        "disk",
        "training",
    ]
    assert all(finding.grade == "good" and not finding.advice for finding in found)


@pytest.mark.parametrize(
    ("change", "name", "grade", "words"),
    [
        ({"lookups": Lookups(15, 15, 5.0)}, "resolver", "bad", "/etc/resolv.conf"),
        ({"lookups": Lookups(15, 3, 1.0)}, "resolver", "bad", "caching resolver"),
        ({"lookups": Lookups(15, 0, 3.0)}, "resolver", "warning", "caching resolver"),
        ({"open_files": 256}, "open files", "bad", "ulimit -n 65536"),
        ({"open_files": 1024, "open_files_hard": 1024}, "open files", "warning", "as root"),
        ({"cores": 2}, "cores", "warning", "taskset"),
        ({"memory_free_bytes": 10**9}, "memory", "warning", "engine.workers"),
        ({"disk_free_bytes": 10**9}, "disk", "warning", "fetch.output.path"),
    ],
)
def test_what_is_bad_is_said_with_what_to_do(
    change: dict[str, object], name: str, grade: str, words: str
) -> None:
    machine = replace(MACHINE, **change)  # type: ignore[arg-type]
    (finding,) = [finding for finding in advice.findings(machine, GPU) if finding.advice]
    assert (finding.name, finding.grade) == (name, grade)
    assert words in finding.advice


WORKS = ProxyCheck("HTTPS_PROXY", "http://***@proxy:3128", None, True, None, "")


@pytest.mark.parametrize(
    ("check", "grade", "words"),
    [
        (WORKS, "warning", 'fetch.http.proxy = "environment"'),
        (replace(WORKS, is_used=False), "warning", "the spec does not use it"),
        (replace(WORKS, is_used=True), "good", "HTTPS_PROXY names http://***@proxy:3128: works"),
        (replace(WORKS, is_used=True, was_asked=False), "good", "was not tested"),
        (
            replace(WORKS, is_used=True, problem="proxy: connection refused"),
            "bad",
            "proxy: connection refused",
        ),
        (replace(WORKS, is_used=True, exceptions="localhost"), "good", "(not for localhost)"),
    ],
)
def test_a_proxy_is_judged_by_whether_it_is_used_and_answers(
    check: ProxyCheck, grade: str, words: str
) -> None:
    finding = advice.proxy(check)
    assert finding.grade == grade
    assert words in f"{finding.found} {finding.advice}"


def test_a_resolver_that_fails_matters_less_where_a_proxy_leads_out() -> None:
    machine = replace(MACHINE, lookups=Lookups(15, 15, 5.0), proxies=(WORKS,))
    assert advice.resolver(machine).grade == "warning"


def test_proxies_are_asked_as_a_run_asks_them() -> None:
    with Origin({"a.jpg": b"x"}) as origin, Proxy(login="me:hush") as proxy:

        def ask(address: str) -> str | None:
            return ask_through(address, origin.url("a.jpg"))

        environment = {
            "https_proxy": proxy.url(login="me:hush"),
            "HTTP_PROXY": proxy.url(login="me:wrong"),
            "ALL_PROXY": "socks5h://127.0.0.1:1",
            "no_proxy": "localhost",
        }
        checks = {check.named_by: check for check in check_proxies(environment, None, False, ask)}
        (other,) = check_proxies(environment, proxy.url(login="me:hush"), True, ask)
    assert checks["https_proxy"].works
    assert checks["HTTP_PROXY"].problem == "proxy refused: 407 Proxy Authentication Required"
    assert checks["ALL_PROXY"].problem == "proxy: connection refused"
    assert "hush" not in str(checks)
    assert (other.named_by, other.is_used, other.works) == ("fetch.http.proxy", True, True)


@pytest.mark.parametrize(
    ("accelerator", "words"),
    [
        (replace(GPU, device=None), "turbo-fetch[train]"),
        (replace(GPU, device="cpu"), "GPU"),
        (replace(GPU, memory_bytes=8_000_000_000), "lora"),
    ],
)
def test_training_is_judged_by_its_device(accelerator: Accelerator, words: str) -> None:
    assert words in advice.training(accelerator).advice


def test_lookups_are_counted_and_late_ones_have_failed() -> None:
    never = threading.Event()

    def lookup(name: str, family: int) -> tuple[str, ...]:
        if name == "hangs":
            never.wait()
        if name == "unknown":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return ("127.0.0.1",)

    found = measure_lookups(("good", "good too", "unknown", "hangs"), lookup, deadline_s=0.2)
    never.set()
    assert (found.asked, found.failed) == (4, 2)
    assert 0 < found.per_s <= 10


def test_this_machine_is_measured_for_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    machine = measure(tmp_path / "not" / "yet", None)
    assert machine.disk == str(tmp_path)
    assert machine.cores >= 1
    assert machine.memory_bytes > machine.memory_free_bytes > 0


def test_the_command_exits_with_0_and_speaks_json() -> None:
    command = [sys.executable, "-m", "turbo_fetch", "doctor", "--no-network", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    content = json.loads(done.stdout)
    assert {finding["name"] for finding in content["findings"]} >= {"open files", "cores", "memory", "disk"}
    assert content["machine"]["versions"]["pyarrow"]
