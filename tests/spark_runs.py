"""Runs on Spark with executors that are processes of this machine, and what Spark says of them afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

import processes
from processes import files_below, lines_of
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec

DRIVER: Final = """
import sys
from turbo_fetch.cli import main
from turbo_fetch.runners.spark import runner
runner.TASK_S = (float(sys.argv[2]), float(sys.argv[3]))
sys.argv[1:] = ["run", sys.argv[1]]
main()
"""
"""As a user writes it for spark-submit; but tasks end so soon."""


def start_on_spark(
    spec: Spec,
    folder: Path,
    python: str = sys.executable,
    task_s: tuple[float, float] = (1200, 1800),
    command: tuple[str, ...] = (),
    **conf: object,
) -> subprocess.Popen[str]:
    """Start a run, as a user does whose Spark is set up by its configuration folder.

    `conf` are settings without `spark.`, with `_` for dots; `command` is what the run is begun with.
    """
    (folder / "job.toml").write_text(dump_spec(spec))
    return processes.start(
        [*command, sys.executable, "-c", DRIVER, str(folder / "job.toml"), *map(str, task_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=folder,
        env=spark_environment(folder, python, **conf),
    )


def spark_environment(folder: Path, python: str = sys.executable, **conf: object) -> dict[str, str]:
    """Return the environment of a process whose Spark is set up by this folder; `conf` as in `start_on_spark`."""
    (folder / "events").mkdir(exist_ok=True)
    settings = {
        "driver.host": "127.0.0.1",
        "driver.bindAddress": "127.0.0.1",
        "ui.enabled": "false",
        "executor.memory": "600m",
        "local.dir": folder / "local",
        "eventLog.enabled": "true",
        "eventLog.dir": folder / "events",
        "eventLog.rolling.enabled": "false",
        "eventLog.compress": "false",
        **{name.replace("_", "."): value for name, value in conf.items()},
    }
    lines = (
        f"spark.{name} {str(value).lower() if value is True else value}\n" for name, value in settings.items()
    )
    (folder / "spark-defaults.conf").write_text("".join(lines))
    return {**os.environ, "SPARK_CONF_DIR": str(folder), "PYSPARK_PYTHON": python}


def executors(process: subprocess.Popen[str], *, at_work: bool = False) -> list[psutil.Process]:
    """Return the executors of a run, or of them only those in which Python works."""
    found = []
    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                is_one = "CoarseGrainedExecutorBackend" in " ".join(child.cmdline())
                if is_one and (not at_work or len(child.children(recursive=True)) > 1):
                    found.append(child)
    return found


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return what Spark noted of one kind, such as `SparkListenerTaskStart`."""
    # The last line may still be being written, and a file is renamed when a run ends.
    lines = [line for path in files_below(folder / "events", "*") for line in lines_of(path)]
    return [event for event in map(json.loads, lines) if event["Event"] == kind]
