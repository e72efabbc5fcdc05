"""A Python process of Spark belongs to its user: a task of ours leaves it as it was."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from multiprocessing.connection import Listener
from pathlib import Path

from jobs import job_spec
from turbo_fetch import __version__
from turbo_fetch.runners.messages import NoMoreShards, Setup, WantShard

USERS_PROCESS = """
import gc, json, sys
from turbo_fetch.runners.spark.worker import WorkerTask

def state():
    return [gc.get_threshold(), gc.get_freeze_count(), gc.isenabled(), [str(each) for each in sys.meta_path]]

before = state()
WorkerTask("127.0.0.1", int(sys.argv[1]), bytes.fromhex(sys.argv[2]))(iter([0]))
after = state()
import pyarrow
numbers = pyarrow.table({"n": pyarrow.array([1, 2])}).to_pandas()["n"].tolist()
print(json.dumps([before, after, numbers]))
"""
"""As Spark runs one task after the other in a process that it keeps: ours, then one in which a user needs pandas."""


def test_a_user_finds_pandas_and_garbage_collection_as_they_were(tmp_path: Path) -> None:
    fetch = job_spec(tmp_path / "list.parquet", tmp_path / "out").fetch
    assert fetch is not None
    key = secrets.token_bytes(32)
    with Listener(("127.0.0.1", 0), authkey=key) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", USERS_PROCESS, str(listener.address[1]), key.hex()],
            stdout=subprocess.PIPE,
            text=True,
        )
        with listener.accept() as connection:
            assert connection.recv() == __version__
            connection.send(Setup(fetch, 1))
            while connection.recv() != WantShard():
                pass
            connection.send(NoMoreShards())
            out, _ = process.communicate(timeout=60)
    before, after, numbers = json.loads(out)
    assert after == before
    assert numbers == [1, 2]
