from __future__ import annotations

import errno
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

import processes
from processes import PATIENCE_S
from turbo_fetch.errors import Interrupted
from turbo_fetch.stop import StopRequest, stop_on_signals


def _is_readable(stop: StopRequest) -> bool:
    return bool(select.select([stop], [], [], 0)[0])


def _silent(_sentence: str) -> None:
    pass


def test_a_signal_asks_to_stop_and_wakes_whoever_waits() -> None:
    with stop_on_signals(_silent) as stop:
        assert not stop
        assert not _is_readable(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.count == 1
        assert _is_readable(stop)
        stop.acknowledge()
        assert not _is_readable(stop)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.count == 2


def test_a_second_signal_raises_where_it_may() -> None:
    with stop_on_signals(_silent) as stop:
        stop.second_raises = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.count == 1
        with pytest.raises(Interrupted, match="stopped at once"):
            os.kill(os.getpid(), signal.SIGINT)


def test_each_of_the_first_two_signals_is_answered_at_once_though_nothing_looks_at_the_request() -> None:
    told: queue.Queue[str] = queue.Queue()
    with stop_on_signals(told.put):
        os.kill(os.getpid(), signal.SIGINT)
        assert "being saved" in told.get(timeout=PATIENCE_S)
        os.kill(os.getpid(), signal.SIGINT)
        assert "at once" in told.get(timeout=PATIENCE_S)
        os.kill(os.getpid(), signal.SIGINT)
    assert told.empty()


def test_nobody_is_told_of_a_request_that_no_signal_made() -> None:
    told: list[str] = []
    with stop_on_signals(told.append) as stop:
        stop.ask()
    assert not told


def test_a_terminal_that_is_gone_does_not_keep_a_signal_from_stopping() -> None:
    def gone(_sentence: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with stop_on_signals(gone) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.count == 1


def test_the_handlers_of_before_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals(_silent):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_no_handler_is_touched() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def run() -> None:
        with stop_on_signals(_silent) as stop:
            seen.append(signal.getsignal(signal.SIGINT))
            stop.ask()
            seen.append(stop.count)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before, 1]


def test_a_worker_that_is_still_importing_leaves_ctrl_c_to_its_parent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = processes.start(
            [sys.executable, "-X", "importtime", "-m", "turbo_fetch.runners", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
    assert worker.stderr is not None
    with worker.stderr as told:
        assert any(line.endswith("turbo_fetch.errors\n") for line in told)
        worker.send_signal(signal.SIGINT)
        rest = told.read()
    assert worker.wait(timeout=PATIENCE_S) == 0
    assert "KeyboardInterrupt" not in rest


def test_who_asks_when_it_is_over_writes_into_no_file_that_was_opened_since(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.close()
    with ExitStack() as files:
        opened = [files.enter_context((tmp_path / str(number)).open("wb")) for number in range(8)]
        stop.ask()
        assert [os.fstat(file.fileno()).st_size for file in opened] == [0] * 8
    assert stop.count == 1
