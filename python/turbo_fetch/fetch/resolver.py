"""Names to addresses: the system's resolver in threads of our own, behind a cache.

uvloop would run lookups in libuv's pool of four threads, shared with all else, where two slow names hold up every
other. aiohttp's own cache forgets what does not resolve, so that each row of a dead host would ask again, and grows
without bound; c-ares (aiodns) does not ask what the system is set up for: nsswitch, mDNS, systemd-resolved.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from turbo_fetch.fetch.failures import NAME_UNKNOWN
from turbo_fetch.fetch.threads import AwaitedThreads

MAX_THREADS: Final = 64
MAX_NAMES: Final = 65_536
FOUND_S: Final = 600.0
NOT_FOUND_S: Final = 60.0
PROBE_THREADS: Final = 16
"""Of their own, for the others may all wait for a resolver that is gone."""
HOSTS_FILE: Final = Path("/etc/hosts")
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
        self._lookup = lookup
        self._threads = AwaitedThreads(MAX_THREADS, "resolver")
        self._probe_threads = AwaitedThreads(PROBE_THREADS, "resolver probe")
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

    async def look_up(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a name as the system has them now; raises socket.gaierror."""
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._probe_threads, self._answer, host, socket.AF_UNSPEC)
        if answer.error is not None:
            raise socket.gaierror(*answer.error.args)
        return answer.addresses

    def last_addresses(self, host: str) -> tuple[str, ...]:
        """Return the addresses that a name had when it was last looked up, however long ago, if they are remembered."""
        for family in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
            found = self._answers.get((host, family))
            if found is not None and found[0].addresses:
                return found[0].addresses
        return ()

    async def found_names(self, most: int) -> list[str]:
        """Return names that were found last, by a resolver and not in the hosts file of this machine."""
        local = await asyncio.get_running_loop().run_in_executor(self._probe_threads, _hosts_file)
        found: dict[str, None] = {}
        for (host, _), (answer, _) in reversed(self._answers.items()):
            if answer.addresses and "." in host.rstrip(".") and host.lower() not in local:
                found[host] = None
            if len(found) == most:
                break
        return list(found)

    def forget_trouble(self) -> None:
        """Forget the names that could not be looked up."""
        for key in [key for key, (answer, _) in self._answers.items() if answer.error is not None]:
            del self._answers[key]
        # Those under way may fail yet, which says nothing any more.
        self._running.clear()

    async def close(self) -> None:
        """End the idle threads; those with a running lookup end after it."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._probe_threads.shutdown(wait=False, cancel_futures=True)

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
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._answer, *key)
        self._running[key] = future
        future.add_done_callback(partial(self._end, key))
        return future

    def _end(self, key: tuple[str, int], future: asyncio.Future[Answer]) -> None:
        if self._running.get(key) is not future:
            return
        del self._running[key]
        if future.cancelled() or future.exception() is not None:
            return
        answer = future.result()
        self._answers[key] = (answer, self._clock() + answer.lifetime_s)
        if len(self._answers) > self._max_names:
            self._answers.popitem(last=False)

    def _answer(self, host: str, family: int) -> Answer:
        try:
            return Answer(self._lookup(host, family), None)
        except socket.gaierror as error:
            return Answer((), error)
        except OSError as error:
            return Answer((), socket.gaierror(socket.EAI_FAIL, str(error)))


def _hosts_file() -> frozenset[str]:
    """Return the names that this machine knows without a resolver."""
    try:
        lines = HOSTS_FILE.read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(name.lower() for line in lines for name in line.partition("#")[0].split()[1:])
