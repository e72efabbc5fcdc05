"""A test that fails leaves nothing to its neighbours, and what a test starts ends with it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

from processes import PATIENCE_S

TESTS = Path(__file__).parent
LEAVING = """
import gc, socket, subprocess, sys

import pytest

import processes


def test_fails_and_leaves_a_process():
    command = [sys.executable, "-c", "import subprocess as s; print(s.Popen(['sleep', '600']).pid); s.time.sleep(600)"]
    process = processes.start(command, stdout=subprocess.PIPE)
    process.child = process.stdout.readline()
    print(f"started {process.pid} {process.child}")
    raise AssertionError


def test_fails_and_leaves_what_python_warns_of():
    one, other = socket.socketpair()
    file = open(__file__)
    process = subprocess.Popen(["true"])
    raise AssertionError


def test_is_a_neighbour():
    gc.collect()


@pytest.fixture(scope="module")
def process():
    with processes.started(["cat"], stdin=subprocess.PIPE) as process:
        yield process


def test_asks_for_a_process_of_the_module(request):
    assert request.getfixturevalue("process").poll() is None


def test_finds_it(process):
    assert process.poll() is None
"""


def _run(folder: Path, *arguments: str) -> str:
    """Run the tests of a folder with the settings of this suite; return what is told."""
    settings = [
        "-c",
        str(TESTS.parent / "pyproject.toml"),
        "-p",
        "conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(folder),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *settings, "-v", *arguments, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_test_that_fails_leaves_nothing_to_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "test_leaving.py").write_text(LEAVING)
    told = _run(tmp_path)
    passed = re.findall(r"::(test_\w+) PASSED", told)
    assert passed == ["test_is_a_neighbour", "test_asks_for_a_process_of_the_module", "test_finds_it"], told
    assert "2 failed, 3 passed" in told
    (started,) = re.findall(r"^started (\d+) (\d+)", told, re.MULTILINE)
    left = [psutil.Process(int(number)) for number in started if psutil.pid_exists(int(number))]
    # A killed process is there until the system has seen to it.
    assert not psutil.wait_procs(left, timeout=PATIENCE_S)[1]


PLACED = """
import os, pytest

pytestmark = [{marks}]


@pytest.mark.parametrize("number", range(4))
def test_one(number):
    with open({log!r}, "a") as file:
        file.write(f"{{os.environ['PYTEST_XDIST_WORKER']}} {name}\\n")
"""


def test_clusters_begin_first_on_one_worker_and_every_other_file_is_whole_on_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    marks = {
        "a": "",
        "b": "",
        "c": "pytest.mark.timeout(300)",
        "d": "",
        "e": "pytest.mark.cluster",
        "f": "pytest.mark.cluster",
    }
    for name, mark in marks.items():
        (tmp_path / f"test_{name}.py").write_text(PLACED.format(marks=mark, log=str(log), name=name))
    told = _run(tmp_path, "--numprocesses", "2")
    assert "24 passed" in told
    ran = [line.split() for line in log.read_text().splitlines()]
    workers = {name: {worker for worker, each in ran if each == name} for name in marks}
    assert all(len(each) == 1 for each in workers.values()), told
    assert workers["e"] == workers["f"]
    for worker in ("gw0", "gw1"):
        (first, *_) = (name for each, name in ran if each == worker)
        assert first in "ec"


def test_every_process_of_a_test_is_started_where_it_is_ended() -> None:
    """`subprocess.run` ends what it starts; `processes.start` and `processes.started` do so for all others."""
    own = {
        path.relative_to(TESTS).as_posix()
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"Popen", "subprocess.Popen"}
    }
    assert own == {"processes.py"}
