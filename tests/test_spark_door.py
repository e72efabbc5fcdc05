"""The door of the driver of Spark tasks: who calls is heard, whoever else calls."""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Client
from pathlib import Path
from queue import SimpleQueue
from signal import Signals

import pytest

import processes
from jobs import job_spec
from namespaces import WEB, Web, may_use_namespaces
from processes import PATIENCE_S
from test_supervisor import Book, shards
from turbo_fetch import __version__
from turbo_fetch.errors import ClusterError
from turbo_fetch.runners.document_cache import IN_MEMORY
from turbo_fetch.runners.messages import Setup
from turbo_fetch.runners.spark.door import Call, open_door
from turbo_fetch.runners.spark.waves import told
from turbo_fetch.runners.spark.worker import WorkerTask
from turbo_fetch.runners.worker_connections import WorkerConnections
from turbo_fetch.shard.task import ShardTask
from turbo_fetch.stop import StopRequest

HOST = "127.0.0.1"


def test_a_task_is_heard_beside_callers_that_are_silent_strangers_or_gone() -> None:
    calls: SimpleQueue[Call] = SimpleQueue()
    with open_door(HOST, HOST, 0, calls) as door, socket.create_connection((HOST, door.port)):
        socket.create_connection((HOST, door.port)).close()
        with socket.create_connection((HOST, door.port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with Client((HOST, door.port), authkey=door.key) as task:
            task.send(__version__)
            task.send((2, 7))
            call = calls.get(timeout=PATIENCE_S)
            assert (call.version, call.wave, call.task) == (__version__, 2, 7)
            call.connection.close()
    assert calls.empty()


def test_a_task_of_another_version_is_heard_whatever_it_says_then() -> None:
    calls: SimpleQueue[Call] = SimpleQueue()
    with (
        open_door(HOST, HOST, 0, calls) as door,
        Client((HOST, door.port), authkey=door.key) as task,
    ):
        task.send("0.0.1")
        call = calls.get(timeout=PATIENCE_S)
        assert (call.version, call.wave) == ("0.0.1", -1)
        call.connection.close()


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(
                ClusterError, match=rf"at 127.0.0.1:{port}: Address already in use; .* engine.port to be free"
            ),
            open_door(HOST, HOST, port, SimpleQueue()),
        ):
            pass


def test_a_driver_that_cannot_be_reached_is_one_sentence() -> None:
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        task = WorkerTask(HOST, closed.getsockname()[1], b"", 0)
        with pytest.raises(ClusterError, match=r"does not reach the driver at .*spark.driver.host") as raised:
            task(iter([0]))
    lines = f"Traceback:\n  File\nturbo_fetch.errors.ClusterError: {raised.value}\n"
    assert str(told(RuntimeError(lines))) == str(raised.value)


CALLER = """
import sys
from multiprocessing.connection import Client
from turbo_fetch.runners.messages import WantShard

host, port, key, version = sys.argv[1:]
with Client((host, int(port)), authkey=bytes.fromhex(key)) as driver:
    driver.send(version)
    driver.send((0, 0))
    driver.recv()
    driver.send(WantShard())
    while True:
        driver.recv()
"""


class _Replaced:
    """Notes which workers are to be replaced."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def why_gone(self, number: int) -> tuple[str | None, Signals | None]:
        return None, None

    def replace(self, number: int) -> None:
        self.numbers.append(number)

    def kill(self) -> None: ...


@pytest.mark.skipif(not may_use_namespaces(), reason="network namespaces need root")
def test_a_worker_whose_machine_is_cut_off_is_given_up_and_its_shard_is_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turbo_fetch.runners.spark.door.SILENCE_S", 2)
    fetch = job_spec(tmp_path / "list.parquet", tmp_path / "out").fetch
    assert fetch is not None
    calls: SimpleQueue[Call] = SimpleQueue()
    with Web() as web, ExitStack() as stack:
        door = web.inside(lambda: stack.enter_context(open_door(WEB, WEB, 0, calls)))
        arguments = (WEB, str(door.port), door.key.hex(), __version__)
        caller = processes.start([*web.node, sys.executable, "-c", CALLER, *arguments])
        stack.callback(caller.wait)
        stack.callback(caller.kill)
        replaced, book = _Replaced(), Book()
        handed_out: list[ShardTask] = []

        def tasks() -> Iterator[ShardTask]:
            for task in shards(1):
                handed_out.append(task)
                yield task

        connections = WorkerConnections(replaced, tasks(), book, StopRequest(), fetch.http, Path(IN_MEMORY))
        connections.add(0, calls.get(timeout=PATIENCE_S).connection, Setup(fetch, 1))
        while not handed_out:
            connections.step(math.inf)
        web.cut("carrier")
        while not connections.is_empty:
            connections.step(math.inf)
        assert caller.poll() is None
    assert replaced.numbers == [0]
    assert connections.supervisor.has_work
    assert book.notes == ["worker 0 does not answer any more; others resume its shards"]
    assert book.deaths == []
