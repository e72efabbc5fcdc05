"""The Spark that a run uses: the session that is there, or one of its own."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from turbo_fetch.errors import ClusterError, MissingExtra
from turbo_fetch.spec import EngineSpec
from turbo_fetch.stop import handlers_kept

try:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession
except ModuleNotFoundError as error:
    raise MissingExtra("pyspark", "spark", 'engine.kind = "spark"') from error

CONNECT_S: Final = 8.0


@contextmanager
def session(master: str | None) -> Iterator[SparkContext]:
    """Yield the context of the session that is there, or of a new one, which ends with the context."""
    existing = SparkSession.getActiveSession()
    if existing is not None:
        yield existing.sparkContext
        return
    builder = SparkSession.builder.appName("turbo-fetch").config("spark.ui.showConsoleProgress", "false")
    if master is not None:
        builder = builder.master(master)
        if master.startswith("local"):
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        _check_reachable(master or "")
        with handlers_kept():
            made = builder.getOrCreate()
    # No Java, no master, a bad address: each has an exception of its own.
    except Exception as error:
        raise ClusterError(
            f"no Spark at {master or 'the configured master'}: {' '.join(str(error).split())[:500]}; expected Java 17 "
            "or later and a master that runs"
        ) from error
    try:
        yield made.sparkContext
    finally:
        made.stop()


def driver_address(context: SparkContext) -> tuple[str, str]:
    """Return the address at which executors reach the driver, and the one at which it listens."""
    host = context.getConf().get("spark.driver.host", "127.0.0.1")
    bind = context.getConf().get("spark.driver.bindAddress", host)
    assert host is not None
    assert bind is not None
    return host, bind


def threads(context: SparkContext, engine: EngineSpec) -> int:
    """Return the decoding threads of a worker: the cores that Spark gives to a task, unless the spec says more."""
    if engine.threads != "auto":
        return engine.threads
    return int(context.getConf().get("spark.task.cpus", "1") or 1)


def _check_reachable(master: str) -> None:
    """Raise OSError if nothing listens at any master of `spark://host:port,host:port`; Spark would try for minutes."""
    addresses = re.findall(r"(?:^spark://|,)([^,:]+):(\d+)", master)
    for number, (host, port) in enumerate(addresses):
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except OSError:
            if number == len(addresses) - 1:
                raise
        else:
            return
