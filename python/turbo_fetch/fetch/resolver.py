"""Names to addresses: the system's resolver in threads of our own, behind a cache.

uvloop would run lookups in libuv's pool of four threads, shared with all else, where two slow names hold up
every other. The threads here are daemons, so that a lookup that hangs cannot hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from time import monotonic
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from turbo_fetch.fetch.failures import NAME_UNKNOWN

MAX_THREADS: Final = 64
MAX_NAMES: Final = 65_536
FOUND_S: Final = 600.0
NOT_FOUND_S: Final = 60.0
TROUBLE_S: Final = 1.0
"""Short, so that a retry asks again; long enough that the rows of one broken host do not queue up."""

Lookup = Callable[[str, int], tuple[str, ...]]
"""From a name and an address family to IP literals, at least one; raises socket.gaierror."""


def system_lookup(host: str, family: int) -> tuple[str, ...]:
    """Resolve with getaddrinfo: hosts file, DNS, whatever the system is set up for. Blocks."""
    try:
        infos = socket.getaddrinfo(
            host, None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
    return tuple(dict.fromkeys(str(info[4][0]) for info in infos))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a lookup found: addresses, or the error that stands for them."""

    addresses: tuple[str, ...]
    error: socket.gaierror | None

    @property
    def lifetime_s(self) -> float:
        """Seconds for which the answer is remembered."""
        if self.error is None:
            return FOUND_S
        return NOT_FOUND_S if self.error.errno in NAME_UNKNOWN else TROUBLE_S


class Resolver(AbstractResolver):
    """Resolves each name once at a time and remembers answers, good and bad, least recently used ones last.

    Belongs to one event loop.
    """

    def __init__(
        self,
        lookup: Lookup = system_lookup,
        max_names: int = MAX_NAMES,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._max_names = max_names
        self._clock = clock
        self._threads = _LookupThreads(lookup)
        self._answers: OrderedDict[tuple[str, int], tuple[Answer, float]] = OrderedDict()
        self._running: dict[tuple[str, int], asyncio.Future[Answer]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a name; raises socket.gaierror."""
        key = (host, family)
        answer = self._remembered(key)
        if answer is None:
            # One waiter's cancellation must not end the lookup for the others.
            answer = await asyncio.shield(self._running.get(key) or self._begin(key))
        if answer.error is not None:
            raise socket.gaierror(*answer.error.args)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in answer.addresses
        ]

    def is_asking(self, host: str) -> bool:
        """Whether a name is being looked up."""
        return any(name == host for name, _ in self._running)

    async def close(self) -> None:
        """End the idle threads; those with a running lookup end after it."""
        self._threads.stop()

    def _remembered(self, key: tuple[str, int]) -> Answer | None:
        found = self._answers.get(key)
        if found is None:
            return None
        answer, expires_s = found
        if self._clock() >= expires_s:
            del self._answers[key]
            return None
        self._answers.move_to_end(key)
        return answer

    def _begin(self, key: tuple[str, int]) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._running[key] = future

        def arrived(answer: Answer) -> None:
            try:
                loop.call_soon_threadsafe(self._end, key, answer)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

        self._threads.ask(key, arrived)
        return future

    def _end(self, key: tuple[str, int], answer: Answer) -> None:
        self._answers[key] = (answer, self._clock() + answer.lifetime_s)
        if len(self._answers) > self._max_names:
            self._answers.popitem(last=False)
        self._running.pop(key).set_result(answer)


class _LookupThreads:
    """Up to MAX_THREADS daemon threads that look up names, started as they are needed."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._questions: SimpleQueue[tuple[tuple[str, int], Callable[[Answer], None]] | None] = SimpleQueue()
        self._threads = 0
        self._idle = threading.Semaphore(0)

    def ask(self, key: tuple[str, int], arrived: Callable[[Answer], None]) -> None:
        """Have a name looked up; `arrived` is called in a thread."""
        self._questions.put((key, arrived))
        if not self._idle.acquire(blocking=False) and self._threads < MAX_THREADS:
            self._threads += 1
            threading.Thread(target=self._work, name="resolver", daemon=True).start()

    def stop(self) -> None:
        """Let every thread end when it is next idle."""
        for _ in range(self._threads):
            self._questions.put(None)

    def _work(self) -> None:
        while (question := self._questions.get()) is not None:
            key, arrived = question
            arrived(self._answer(*key))
            self._idle.release()

    def _answer(self, host: str, family: int) -> Answer:
        try:
            return Answer(self._lookup(host, family), None)
        except socket.gaierror as error:
            return Answer((), error)
        except OSError as error:
            return Answer((), socket.gaierror(socket.EAI_FAIL, str(error)))
