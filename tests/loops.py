"""Runs a coroutine on each kind of event loop, and fails it when it blocks the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop
from blockbuster import blockbuster_ctx

T = TypeVar("T")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
LIMIT_S = 120.0


def run_on(loop: str, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end, at most LIMIT_S seconds, on the named kind of loop; a blocking call raises."""
    with blockbuster_ctx(), asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(asyncio.wait_for(coroutine, LIMIT_S))
