"""Many independent steps, one per shard, in this process or side by side in several, with a clean end when asked."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Final, Protocol, TypeVar

from turbo_fetch.errors import Interrupted, ShardFailed
from turbo_fetch.startup import without_pandas
from turbo_fetch.stop import StopRequest

TICK_S: Final = 0.25
AHEAD: Final = 2
"""Steps handed to each process in advance."""

Step = TypeVar("Step")
Result = TypeVar("Result")


class Progress(Protocol):
    """Who looks on."""

    def advance(self, rows: int) -> None:
        """Take note that this many rows are done."""

    def refresh(self) -> None:
        """Take the chance to redraw, a few times a second."""


def run_steps(
    work: Callable[[Step], Result],
    steps: Iterator[Step],
    processes: int,
    progress: Progress,
    stop: StopRequest,
) -> Iterator[Result]:
    """Yield the results of `work` on each step, in the order in which they end.

    `work` and its steps are pickled if there are several processes. Raises what `work` raises, and Interrupted
    when asked to stop, in both cases after what had begun has ended; ShardFailed if a process dies.
    """
    if processes == 1:
        for step in steps:
            _check(stop)
            yield work(step)
            progress.refresh()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin) as pool:
        running: set[Future[Result]] = set()
        try:
            while True:
                _check(stop)
                for step in islice(steps, processes * AHEAD - len(running)):
                    running.add(pool.submit(work, step))
                if not running:
                    return
                ended, running = wait(running, timeout=TICK_S, return_when=FIRST_COMPLETED)
                progress.refresh()
                for future in ended:
                    yield future.result()
        except BrokenProcessPool as error:
            # A signal to the whole group ends them too.
            _check(stop)
            raise ShardFailed(f"a process died ({error}); what was finished is kept") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _check(stop: StopRequest) -> None:
    if stop:
        raise Interrupted("interrupted; what was finished is kept. Run the same command again to resume")


def _begin() -> None:
    """Begin a process: Ctrl-C, and a terminal that is closed, are for the parent, which decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    without_pandas()
