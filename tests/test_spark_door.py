"""The door of the driver of Spark tasks: who calls is heard, whoever else calls."""

from __future__ import annotations

import socket
from multiprocessing.connection import Client
from queue import SimpleQueue

import pytest

from turbo_fetch import __version__
from turbo_fetch.errors import ClusterError
from turbo_fetch.runners.spark.door import Call, open_door
from turbo_fetch.runners.spark.waves import told
from turbo_fetch.runners.spark.worker import WorkerTask

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
            call = calls.get(timeout=20)
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
        call = calls.get(timeout=20)
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
