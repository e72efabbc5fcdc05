"""What is told while a cluster is waited for, and of errors that come from its machines."""

from __future__ import annotations

import threading
from collections import Counter
from time import monotonic

import pytest

from turbo_fetch.errors import Interrupted
from turbo_fetch.progress.run_progress import Progress
from turbo_fetch.progress.tally import Tally
from turbo_fetch.runners.remote_errors import cause_in
from turbo_fetch.runners.waiting import Waiting
from turbo_fetch.stop import StopRequest

LONG = "a" * 300


def test_what_takes_long_is_told_and_a_request_to_stop_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbo_fetch.runners.waiting.TOLD_AFTER_S", 0.3)
    told: list[str] = []
    stop = StopRequest()
    never = threading.Event()

    def tell(text: str) -> None:
        told.append(text)
        stop.ask()

    began_s = monotonic()
    with pytest.raises(Interrupted, match="waiting for the cluster"):
        Waiting(tell, stop).run(never.wait, "the cluster", 60)
    assert monotonic() - began_s < 30
    assert told == ["waiting for the cluster (Ctrl-C ends it)"]
    never.set()
    stop.close()


def test_what_takes_too_long_is_left_behind_and_what_it_raises_is_raised() -> None:
    stop = StopRequest()
    never = threading.Event()
    with pytest.raises(TimeoutError, match="no answer within 0 s"):
        Waiting(print, stop).run(never.wait, "the cluster", 0.1)
    with pytest.raises(ZeroDivisionError):
        Waiting(print, stop).run(lambda: 1 / 0, "the cluster", 60)
    never.set()
    stop.close()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "The actor died because of an error raised in its creation task, ray::RayWorker.__init__()\n"
            f"  File \"{LONG}.py\", line 3\nModuleNotFoundError: No module named 'uvloop'",
            "ModuleNotFoundError: No module named 'uvloop'",
        ),
        (
            "controller error:\nTraceback:\nRuntimeError: Gloo connectFullMesh failed with [10.0.0.1]:2: timed out\n"
            "ray.train.v2.api.exceptions.WorkerGroupError: Training failed\n",
            "RuntimeError: Gloo connectFullMesh failed with [10.0.0.1]:2: timed out",
        ),
        ("Training failed\nfor no reason", "Training failed for no reason"),
        ("org.apache.spark.SparkException: Job aborted", "org.apache.spark.SparkException: Job aborted"),
    ],
)
def test_of_a_traceback_the_line_is_told_that_says_what_happened(text: str, cause: str) -> None:
    assert cause_in(text) == cause


def test_rows_of_a_dead_worker_that_are_done_again_count_once() -> None:
    progress = Progress(total_rows=100)
    progress.add(0, Tally(outcomes=Counter(success=60), in_flight=8, memory_bytes=5), 0.0)
    progress.worker_gone(0, open_rows=40)
    assert (progress.done_rows, progress.sum("in_flight"), progress.present_workers) == (20, 0, 0)
    progress.add(1, Tally(recovered=40, in_flight=3), 1.0)
    assert (progress.done_rows, progress.sum("in_flight"), progress.present_workers) == (60, 3, 1)
