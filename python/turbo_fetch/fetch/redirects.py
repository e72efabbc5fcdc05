"""Where a response sends us, and what is read of one that is not wanted."""

from __future__ import annotations

from typing import Final

import aiohttp
from yarl import URL

from turbo_fetch.spec import HttpSpec

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
DRAIN_BYTES: Final = 16_384
"""An error page up to this size is read, for a connection costs more than its bytes."""


def redirect_target(url: URL, location: str | None) -> URL | None:
    """Return the address that a Location header names, without fragment, or None if it names none."""
    if not location:
        return None
    try:
        onward = url.join(URL(location)).with_fragment(None)
    except ValueError:
        return None
    return onward if onward.raw_host or onward.scheme not in {"http", "https"} else None


def redirect_problem(onward: URL | None, visited: set[URL], http: HttpSpec) -> str | None:
    """Return why a redirect is not followed."""
    if onward is None:
        return "redirect without a usable Location"
    if onward.scheme not in {"http", "https"}:
        return f"redirect to the scheme {onward.scheme}, expected http or https"
    if onward in visited:
        return "redirect loop"
    if len(visited) > http.max_redirects:
        return f"more than {http.max_redirects} redirects"
    return None


async def drain(response: aiohttp.ClientResponse) -> None:
    """Read a short unwanted body, so that its connection can be used again."""
    length = response.content_length
    if length is None or length > DRAIN_BYTES:
        return
    try:
        await response.read()
    except (aiohttp.ClientError, OSError):
        return
