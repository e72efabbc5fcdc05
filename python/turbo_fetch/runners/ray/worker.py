"""A worker inside a Ray actor: its loop has a thread of its own, and the driver speaks to it by long polls."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

import uvloop

from turbo_fetch import __version__
from turbo_fetch.errors import TurboFetchError
from turbo_fetch.runners.messages import JobError, Setup, Stop, ToParent, ToWorker
from turbo_fetch.runners.worker import spare_garbage_collection, work
from turbo_fetch.startup import without_pandas

POLL_S: Final = 5.0
"""Longest time that a poll waits for something to say."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Actor → driver, last: the worker is through; `error` is a traceback if it failed."""

    error: str | None = None


class RayWorker:
    """The actor. `exchange` is called by the driver again and again, one call at a time."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[ToWorker] = SimpleQueue()
        self._outbox: asyncio.Queue[ToParent | Ended] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop

    async def version(self) -> str:
        """Return the version of turbo-fetch on this node."""
        return __version__

    async def start(self, setup: Setup) -> None:
        """Begin to work; called once."""
        self._loop = asyncio.get_running_loop()
        without_pandas()
        spare_garbage_collection()
        threading.Thread(target=self._work, args=(setup,), name="worker", daemon=True).start()

    async def exchange(self, messages: list[ToWorker]) -> list[ToParent | Ended]:
        """Pass `messages` to the worker; return what it says, after at most `POLL_S` seconds maybe nothing."""
        await self.tell(messages)
        said = []
        with suppress(TimeoutError):
            said.append(await asyncio.wait_for(self._outbox.get(), POLL_S))
        while not self._outbox.empty():
            said.append(self._outbox.get_nowait())
        return said

    async def tell(self, messages: list[ToWorker]) -> None:
        """Pass `messages` to the worker, while `exchange` may be under way."""
        for message in messages:
            self._inbox.put(message)

    def send(self, message: ToParent | Ended) -> None:
        """See Channel; called by the worker's threads."""
        self._loop.call_soon_threadsafe(self._outbox.put_nowait, message)

    def recv(self) -> ToWorker:
        """See Channel; called by the worker's thread. An actor whose driver is gone is killed by Ray."""
        return self._inbox.get()

    def _work(self, setup: Setup) -> None:
        error = None
        try:
            uvloop.run(work(self, setup, lambda _: None))
        except TurboFetchError as failure:
            self.send(JobError(type(failure).__name__, str(failure)))
        # Whatever it is, the driver tells it, and starts another worker.
        except BaseException as failure:
            error = f"{type(failure).__name__}: {failure}"
        self._inbox.put(Stop())
        self.send(Ended(error))
