"""A Python process of Spark belongs to its user: a task of ours leaves it as it was."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import pytest

import processes
from jobs import job_spec
from processes import PATIENCE_S, finished
from turbo_fetch import __version__
from turbo_fetch.runners.messages import NoMoreShards, Setup, WantShard

USERS_PROCESS = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from process_state import settled, state
from turbo_fetch.runners.spark.worker import WorkerTask

task = WorkerTask("127.0.0.1", int(sys.argv[1]), bytes.fromhex(sys.argv[2]), 5)
before = state()
error = None
try:
    task(iter([3]))
except Exception as raised:
    error = f"{{type(raised).__name__}}: {{raised}}"
after = settled(before)
import pyarrow
numbers = pyarrow.table({{"n": pyarrow.array([1, 2])}}).to_pandas()["n"].tolist()
print(json.dumps([before, after, numbers, error]))
"""
"""As Spark runs one task after the other in a process that it keeps: ours, then one in which a user needs pandas."""


def _worked(folder: Path, talk: Callable[[Connection[Any, Any]], None]) -> list[Any]:
    """Return what a process of a user says in which a task has worked for a driver that talks so."""
    key = secrets.token_bytes(32)
    with Listener(("127.0.0.1", 0), authkey=key) as listener:
        process = processes.start(
            [sys.executable, "-c", USERS_PROCESS, str(listener.address[1]), key.hex()],
            stdout=subprocess.PIPE,
        )
        with pytest.raises((EOFError, OSError)):
            # It looks first whether anything is there.
            listener.accept()
        with listener.accept() as connection:
            assert connection.recv() == __version__
            assert connection.recv() == (5, 3)
            fetch = job_spec(folder / "list.parquet", folder / "out").fetch
            assert fetch is not None
            connection.send(Setup(fetch, 1))
            next(message for message in iter(connection.recv, None) if message == WantShard())
            talk(connection)
            if not connection.closed:
                process.wait(PATIENCE_S)
        out, _ = finished(process)
    found: list[Any] = json.loads(out)
    return found


def test_a_user_finds_everything_as_it_was(tmp_path: Path) -> None:
    before, after, numbers, error = _worked(tmp_path, lambda driver: driver.send(NoMoreShards()))
    assert error is None
    assert after == before
    assert numbers == [1, 2]


def test_a_task_whose_driver_is_gone_fails_so_that_spark_starts_it_again(tmp_path: Path) -> None:
    before, after, _, error = _worked(tmp_path, lambda driver: driver.close())
    assert error.startswith("ClusterError: ")
    assert " has lost the driver at 127.0.0.1:" in error
    assert after == before
