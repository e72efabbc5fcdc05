"""The proxies of this machine: which there are, whether a spec would use them, and whether they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from turbo_fetch.causes import local_cause
from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client
from turbo_fetch.fetch.proxies import ENVIRONMENT, Proxies, exceptions_in, named_in, proxy_address
from turbo_fetch.redaction import redact
from turbo_fetch.spec import HttpSpec

WELL_KNOWN: Final = "https://www.wikipedia.org/robots.txt"
ASKED_S: Final = 10.0

Ask = Callable[[str], str | None]
"""From a proxy to why nothing comes through it, None if something does."""


@dataclass(frozen=True, slots=True)
class ProxyCheck:
    """A proxy that the environment or a spec names."""

    named_by: str
    """The variable, or the key of the spec."""
    address: str
    """With its password masked."""
    is_used: bool | None
    """Whether the spec would use it; None if none was given."""
    was_asked: bool
    problem: str | None
    """Why nothing comes through it, if it was asked; or what is wrong with the address."""
    exceptions: str
    """What NO_PROXY says."""

    @property
    def works(self) -> bool:
        """Whether something came through it."""
        return self.was_asked and self.problem is None


def check_proxies(
    environment: Mapping[str, str], key: str | None, has_spec: bool, ask: Ask | None
) -> tuple[ProxyCheck, ...]:
    """Return the proxies that there are; `key` is `fetch.http.proxy` of the spec, if there is one."""
    if key is not None and key != ENVIRONMENT:
        return (_checked("fetch.http.proxy", key, True, ask, ""),)
    is_used = key == ENVIRONMENT if has_spec else None
    exceptions = exceptions_in(environment)
    found = named_in(environment)
    return tuple(_checked(name, value, is_used, ask, exceptions) for name, value in found.items())


def _checked(name: str, value: str, is_used: bool | None, ask: Ask | None, exceptions: str) -> ProxyCheck:
    address = proxy_address(value)
    if address is None:
        problem = "is not a proxy address; expected http://host:port"
        return ProxyCheck(name, redact(value), is_used, False, problem, exceptions)
    failure = ask(address) if ask is not None else None
    return ProxyCheck(name, redact(address), is_used, ask is not None, failure, exceptions)


def ask_through(proxy: str, url: str = WELL_KNOWN) -> str | None:
    """Request a well-known address through a proxy, as a run would; return what went wrong on the way, if anything."""
    limits = {"timeout_s": ASKED_S, "connect_timeout_s": ASKED_S, "stall_timeout_s": ASKED_S}
    http = HttpSpec.model_validate(
        {"robots": "ignore", "allow_private_addresses": True, "ports": "any", **limits}
    )
    try:
        client = Client(http, ByteBudget(1_000_000), proxies=Proxies.of(proxy, {}))
    except SpecError as error:
        return str(error)

    async def scenario() -> str | None:
        async with client:
            fetched = await client.get(url)
        if fetched.http_status is not None and local_cause(fetched.outcome, fetched.detail) is None:
            return None
        return fetched.detail

    return asyncio.run(scenario())
