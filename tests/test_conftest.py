"""A test that fails leaves nothing to its neighbours, and what a test starts ends with it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

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


def test_a_test_that_fails_leaves_nothing_to_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "test_leaving.py").write_text(LEAVING)
    settings = ["-c", str(TESTS.parent / "pyproject.toml"), "-p", "conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *settings, "-v", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    passed = re.findall(r"::(test_\w+) PASSED", done.stdout)
    assert passed == ["test_is_a_neighbour", "test_asks_for_a_process_of_the_module", "test_finds_it"], done
    assert "2 failed, 3 passed" in done.stdout
    (started,) = re.findall(r"^started (\d+) (\d+)", done.stdout, re.MULTILINE)
    left = [psutil.Process(int(number)) for number in started if psutil.pid_exists(int(number))]
    # A killed process is there until the system has seen to it.
    assert not psutil.wait_procs(left, timeout=30)[1]


def test_every_process_of_a_test_is_started_where_it_is_ended() -> None:
    """`subprocess.run` ends what it starts; `processes.start` and `processes.started` do so for all others."""
    own = {
        path.relative_to(TESTS).as_posix()
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"Popen", "subprocess.Popen"}
    }
    assert own == {"processes.py"}
