"""Tests wait for processes without racing with them, and fail with what the process has said."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import processes
from origin import Origin
from processes import descendants, files_below, finished, free_port, lines_of, send, wait_until

TESTS = Path(__file__).parent
STAYS = "import sys, time; print('begun', flush=True); print('trouble', file=sys.stderr, flush=True); time.sleep(600)"


def _python(code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code]
    return processes.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_what_has_happened_is_returned_though_the_process_has_ended_since(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    process = _python(f"open({str(path)!r}, 'w').write('one\\ntwo')")
    process.wait()
    assert wait_until("a line", lambda: lines_of(path), process) == ["one"]


def test_the_end_of_the_process_fails_the_test_at_once_with_what_it_said() -> None:
    process = _python("import sys; print('begun'); sys.exit('no such thing')")
    with pytest.raises(AssertionError, match=r"ended with 1 before a thing: begun\n\nno such thing"):
        wait_until("a thing", lambda: False, process)


def test_what_does_not_happen_is_told_with_what_the_process_does() -> None:
    process = _python(STAYS)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(
        AssertionError, match=rf"(?s)not within 1 s: a thing; .*trouble.*\n{process.pid} sleep"
    ):
        wait_until("a thing", lambda: False, process, within_s=1)


def test_a_process_that_does_not_end_is_told_with_what_it_said_and_does() -> None:
    process = _python(STAYS)
    assert wait_until("the process", lambda: descendants(word="time.sleep(600)"))[0].pid == process.pid
    with pytest.raises(AssertionError, match=rf"(?s)has not ended within 2 s: .*\n{process.pid} sleep"):
        finished(process, within_s=2)


def test_a_signal_to_processes_of_which_some_have_ended_reaches_the_others() -> None:
    several = [_python(STAYS) for _ in range(3)]
    found = [psutil.Process(process.pid) for process in several]
    several[1].kill()
    several[1].wait()
    send(signal.SIGTERM, *found)
    assert [process.wait() for process in several] == [-signal.SIGTERM, -signal.SIGKILL, -signal.SIGTERM]


def test_files_are_found_below_folders_that_come_and_go(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.png").touch()
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for name in ("one", "two"):
                (tmp_path / name / "below").mkdir(parents=True)
                (tmp_path / name / "below").rmdir()
                (tmp_path / name).rmdir()

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(come_and_go)
        try:
            found = [files_below(tmp_path, "**/*.png") for _ in range(300)]
        finally:
            ended.set()
        coming.result()
    assert found == [[tmp_path / "kept" / "a.png"]] * 300


def test_an_origin_answers_no_later_request_until_it_may() -> None:
    with Origin({"a.jpg": b"x"}) as origin, ThreadPoolExecutor(1) as thread:

        def ask() -> bytes:
            with urllib.request.urlopen(origin.url("a.jpg"), timeout=processes.PATIENCE_S) as answer:
                return bytes(answer.read())

        with origin.holding_after(2) as last:
            assert [ask(), ask()] == [b"x", b"x"]
            held = thread.submit(ask)
            wait_until("the third request", lambda: len(origin.received) == last + 1)
            assert not held.done()
        assert held.result() == ask() == b"x"


def test_ports_are_given_once() -> None:
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == 20
    assert max(ports) < 32_768


def _nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(TESTS.rglob("*.py")):
        name = path.relative_to(TESTS).as_posix()
        yield from ((name, node) for node in ast.walk(ast.parse(path.read_text())))


def test_no_loop_of_a_test_waits_by_itself() -> None:
    """It would have no bound, say nothing, and take the processor from what it waits for."""
    empty = (ast.Pass, ast.Assert, ast.Continue)
    loops = {
        name
        for name, node in _nodes()
        if isinstance(node, ast.While) and all(isinstance(each, empty) for each in node.body)
    }
    # What is asked there is a step of its own each time: an answer, a line, a request.
    assert loops == {"raw_origin.py", "test_connections.py", "test_rate_limiter.py"}


def test_no_test_looks_at_processes_of_others() -> None:
    looks = {
        name for name, node in _nodes() if isinstance(node, ast.Attribute) and node.attr == "process_iter"
    }
    # Its machines are started by a command that leaves them behind, and are known by their addresses.
    assert looks == {"fault_schedules.py"}
