"""Who is asked whether the network of this side works: hosts that answered a moment ago, and the resolver.

No third party is asked, and no request is sent: a connection to a host of the list is opened and closed again, and a
name is looked up that nobody can have in a cache, under a domain of the list. Where these cannot tell, the routes
and interfaces of this machine may.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Final

import psutil
from aiohappyeyeballs import SocketFactoryType
from yarl import URL

from turbo_fetch.fetch.failures import NAME_UNKNOWN
from turbo_fetch.fetch.origins import origin_of
from turbo_fetch.fetch.proxies import Proxies
from turbo_fetch.fetch.resolver import Resolver

PROBE_S: Final = 2.5
"""How long all witnesses are waited for: longer than a lost packet takes to be sent again."""
STAGGER_S: Final = 0.2
"""How much later each further witness is asked, so that mostly one is enough."""
WITNESSES: Final = 4
"""Witnesses of a kind that are asked at once."""
ENOUGH: Final = 3
"""Domains that do not fall silent at once but by the fault of the network."""
REMEMBERED: Final = 32

_ALIVE: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EMFILE, errno.ENFILE})
"""Errors that are no sign of a network that is gone."""


class Witnesses:
    """The hosts that answered last. Each question is answered by True, False, or None where nobody can tell."""

    def __init__(self, resolver: Resolver, proxies: Proxies, gate: SocketFactoryType) -> None:
        self._resolver = resolver
        self._proxies = proxies
        self._gate = gate
        self._answered: OrderedDict[str, str] = OrderedDict()
        self._of_others: set[str] = set()
        """Domains that answered others, not this process."""

    def answered(self, domain: str, address: str) -> None:
        """Remember that a host of a domain answered, with an address of it."""
        self._answered[domain] = address
        self._answered.move_to_end(domain)
        self._of_others.discard(domain)
        if len(self._answered) > REMEMBERED:
            self._of_others.discard(self._answered.popitem(last=False)[0])

    @property
    def are_known(self) -> bool:
        """Whether there is one."""
        return bool(self._answered)

    @property
    def latest(self) -> dict[str, str]:
        """The hosts that answered this process last, by domain, the last one at the end."""
        own = [domain for domain in self._answered if domain not in self._of_others][-WITNESSES:]
        return {domain: origin_of(self._answered[domain]) for domain in own}

    def hear_of(self, hosts: Mapping[str, str]) -> None:
        """Take hosts that answered others, to be asked where there are too few that answered here."""
        for domain, address in hosts.items():
            if domain not in self._answered and len(self._answered) < REMEMBERED:
                self._answered[domain] = address
                self._answered.move_to_end(domain, last=False)
                self._of_others.add(domain)

    async def network_works(self, failed: Iterable[str]) -> bool | None:
        """Whether this side reaches anybody; `failed` are addresses of hosts that it did not reach."""
        suspects = [URL(address) for address in {origin_of(each) for each in failed}][:WITNESSES]
        proxies = {URL(proxy) for proxy in map(self._proxy, suspects) if proxy is not None}
        if proxies:
            # Whether one that is there reaches others cannot be seen from here.
            is_there = await any_true([partial(self._connects, proxy, _NOBODY) for proxy in proxies])
            return None if is_there else False
        domains = list(reversed(self._answered))[:WITNESSES]
        known = [url for domain in domains if self._proxy(url := URL(self._answered[domain])) is None]
        if await any_true([partial(self._connects, url, _ALIVE) for url in (*known, *suspects)]):
            return True
        for domain in domains:
            # Others next time: these may have died of their own.
            self._answered.move_to_end(domain, last=False)
        addresses = [address for url in (*known, *suspects) for address in self._last_addresses(url)]
        if len(known) >= ENOUGH or (addresses and not await asyncio.to_thread(_any_has_route, addresses)):
            return False
        named = [url for url in known if not _is_literal(url)]
        return False if named and await self.resolver_works([]) is False else None

    async def resolver_works(self, failed: Sequence[str]) -> bool | None:
        """Whether names can be looked up; `failed` are addresses whose names could not."""
        known = await self._resolver.found_names(WITNESSES)
        names = [URL(address).raw_host or "" for address in failed][:WITNESSES]
        ends = {name.rstrip(".").rpartition(".")[2] for name in (*known, *names)}
        unheard_of = [f"turbo-fetch-{secrets.token_hex(6)}.{end}." for end in (*known, *ends)]
        if await any_true([partial(self._is_answered, name) for name in (*unheard_of, *names)]):
            return True
        return False if known else None

    def _proxy(self, url: URL) -> str | None:
        return self._proxies.towards(url.scheme, url.raw_host or "", url.port) if self._proxies else None

    async def _is_answered(self, name: str) -> bool:
        try:
            await self._resolver.look_up(name)
        except socket.gaierror as error:
            return error.errno in NAME_UNKNOWN
        return True

    async def _connects(self, url: URL, alive: frozenset[int]) -> bool:
        """Whether a host takes a connection, or fails in one of the ways in which only one that is there does."""
        for address in await self._addresses(url):
            try:
                with self._socket(address, url.port or 0, is_proxy=alive is _NOBODY) as line:
                    line.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(line, (address, url.port or 0))
            except OSError as error:
                if error.errno in alive:
                    return True
            else:
                return True
        return False

    def _socket(self, address: str, port: int, *, is_proxy: bool) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        if is_proxy:
            return socket.socket(family, socket.SOCK_STREAM)
        return self._gate((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)))

    async def _addresses(self, url: URL) -> Sequence[str]:
        with suppress(socket.gaierror):
            return self._last_addresses(url) or await self._resolver.look_up(url.raw_host or "")
        return ()

    def _last_addresses(self, url: URL) -> Sequence[str]:
        host = url.raw_host or ""
        return [host] if _is_literal(url) else self._resolver.last_addresses(host)


_NOBODY: Final[frozenset[int]] = frozenset()
"""A proxy that refuses connections is of no use, though it is there."""


async def any_true(questions: Sequence[Callable[[], Awaitable[bool]]]) -> bool:
    """Ask one after the other, each a moment later, until one is answered by True or all are late."""

    async def ask(question: Callable[[], Awaitable[bool]], delay_s: float) -> bool:
        await asyncio.sleep(delay_s)
        return await question()

    asked = [asyncio.ensure_future(ask(each, STAGGER_S * number)) for number, each in enumerate(questions)]
    try:
        with suppress(TimeoutError):
            for answer in asyncio.as_completed(asked, timeout=PROBE_S):
                if await answer:
                    return True
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return False


def has_route(address: str) -> bool:
    """Whether a route leads to an IP literal over an interface that runs, or over one of which that is not known."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as line:
            # Sends nothing.
            line.connect((address, 9))
            source = line.getsockname()[0]
    except OSError:
        return False
    states = psutil.net_if_stats()
    for interface, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == source for each in addresses):
            return interface not in states or states[interface].isup
    return True


def _any_has_route(addresses: Sequence[str]) -> bool:
    return any(map(has_route, addresses))


def _is_literal(url: URL) -> bool:
    try:
        ip_address(url.raw_host or "")
    except ValueError:
        return False
    return True
