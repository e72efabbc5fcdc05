"""Where a response sends us, and what is read of one that is not wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import aiohttp

from turbo_fetch._native import resolve_location
from turbo_fetch.fetch.response import Response
from turbo_fetch.spec import HttpSpec

DRAIN_BYTES: Final = 16_384
"""An error page up to this size is read, for a connection costs more than its bytes."""

MAX_LOCATION_CHARACTERS: Final = 16_384
"""Of a redirect; no server takes so much in one line."""

MOST_VISITS: Final = 1
"""To an address, after which another one is a loop: some servers make an image at the first, and send us back to it."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CHOICES: Final = 300


def is_redirect(response: Response) -> bool:
    """Whether a response sends us elsewhere; 300 does with a Location, as in curl."""
    status = response.status
    return status in _REDIRECTS or (status == _CHOICES and "Location" in response.headers)


def redirect_target(address: str, response: Response) -> str | None:
    """Return the address that the Location of a response names, without fragment, or None if it names none.

    It is resolved as the bytes that came, and sent as it is: what is percent-encoded in it may be signed.
    """
    location = response.headers.get("Location", "")
    if not 0 < len(location) <= MAX_LOCATION_CHARACTERS:
        return None
    return resolve_location(address, location.encode("utf-8", "surrogateescape"))


def has_credentials(address: str) -> bool:
    """Whether a normalised http or https address holds a user name or password, which would be sent."""
    return "@" in address.partition("://")[2].partition("/")[0]


def redirect_problem(onward: str | None, visited: Sequence[str], http: HttpSpec) -> str | None:
    """Return why a redirect is not followed."""
    if onward is None:
        return "redirect without a usable Location"
    scheme = onward.partition(":")[0]
    if scheme not in {"http", "https"}:
        return f"redirect to the scheme {scheme}, expected http or https"
    if has_credentials(onward):
        return "redirect to an address with a user name or password"
    if visited.count(onward) > MOST_VISITS:
        return "redirect loop"
    if len(visited) > http.max_redirects:
        return f"more than {http.max_redirects} redirects"
    return None


async def drain(response: Response) -> None:
    """Read a short unwanted body, so that its connection can be used again."""
    length = response.body.framing.length
    if length is None or length > DRAIN_BYTES:
        return
    try:
        await response.body.read()
    except (aiohttp.ClientError, OSError):
        return
