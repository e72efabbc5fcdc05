"""Origins: what requests to the same scheme, host and port have in common, and the requests themselves, as bytes."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from turbo_fetch.fetch.connections import BoundedConnector
from turbo_fetch.fetch.library_internals import ConnectionKey
from turbo_fetch.plan.urls import parse_url

_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port that are asked, and the way there."""

    name: str
    """As it begins an address."""
    url: URL
    proxy: str | None
    """The proxy through which it is asked, if there is one."""
    is_asked_of_proxy: bool
    """Whether the proxy itself sends the requests: http through an HTTP proxy."""
    headers: CIMultiDict[str]
    """Of all requests to it."""
    lines: bytes
    """What follows the target in a request that has no further headers."""
    connector: BoundedConnector
    connecting: aiohttp.ClientRequest
    """What the connector has to know."""
    key: ConnectionKey
    """Under which the connector keeps idle connections."""


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL with a path, as they stand there; a user name is no part of it."""
    origin = url[: url.find("/", 8)]
    if "@" in origin:
        scheme, _, authority = origin.partition("://")
        return f"{scheme}://{authority.rpartition('@')[2]}"
    return origin


@lru_cache(maxsize=16_384)
def domain_of(origin: str) -> str:
    """Return the registrable domain of an origin, an IP address or a single label where that stands for it."""
    _, _, domain = parse_url(f"{origin}/")
    return domain or origin


def path_of(url: str) -> str:
    """Return path and query of a URL with a path, as they are sent."""
    return url[url.index("/", 8) :].partition("#")[0]


def request_bytes(origin: Origin, address: str, headers: Mapping[str, str] | None) -> bytes:
    """Return the request for an address, whose user and password become a header; raises ValueError if none can be."""
    path = path_of(address)
    lines = origin.lines
    if headers or not address.startswith(origin.name):
        merged = origin.headers.copy()
        merged.update(headers or {})
        user = credentials("Authorization", URL(address, encoded=True))
        if user and "Authorization" in merged:
            raise ValueError("a user in the address, and a header Authorization")
        merged.update(user)
        lines = request_lines(merged)
    target = f"{origin.name}{path}" if origin.is_asked_of_proxy else path
    if _FORBIDDEN.search(target):
        raise ValueError("a control character in the address")
    return b"GET %b%b" % (target.encode(), lines)


def request_lines(headers: CIMultiDict[str]) -> bytes:
    """Return what follows the path in a request; raises ValueError for a header that would end early."""
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if any(_FORBIDDEN.search(part) for pair in headers.items() for part in pair):
        raise ValueError("a header with a control character")
    return f" HTTP/1.1\r\n{text}\r\n".encode()


def credentials(header: str, url: URL) -> dict[str, str]:
    """Return a header with the user and the password of a URL, if it has any."""
    if url.raw_user is None and url.raw_password is None:
        return {}
    pair = f"{url.user or ''}:{url.password or ''}"
    return {header: f"Basic {b64encode(pair.encode()).decode()}"}
