"""The URLs of a shard, parsed natively: what to request, and by whose limits."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from turbo_fetch import _native

MALFORMED_MARK: Final = _native.MALFORMED_MARK
"""Starts the `url` of a row that is not well-formed in its list; no URL may hold this character."""


@dataclass(frozen=True, slots=True)
class ParsedUrls:
    """One entry per row in each list: either `error` is None, or the other three are.

    `normalised` is the URL to request, in ASCII and without fragment; `host` is as it stands there;
    `domain` is the registrable domain by the public suffix list, or the IP address or single label.
    """

    normalised: list[str | None]
    host: list[str | None]
    domain: list[str | None]
    error: list[str | None]


def parse_urls(urls: pa.Array) -> ParsedUrls:
    """Parse a string array of URLs by the WHATWG URL Standard; a bad one is an error in its row.

    Accepted are http and https without user name and password. White space around a URL is ignored; the
    host becomes lower-case ASCII (IDNA), spaces and non-ASCII characters are percent-encoded, odd
    notations of IP addresses, default ports and fragments go.
    """
    parsed = _native.parse_urls(urls)
    return ParsedUrls(
        *[parsed.column(name).to_pylist() for name in ("normalised", "host", "domain", "error")]
    )


def parse_url(url: str) -> tuple[str | None, str | None, str | None]:
    """Return what :func:`parse_urls` finds of one URL: normalised, host and domain, each None if it is a bad one."""
    address = url.encode("utf-8", "surrogatepass")
    # Made of its parts, since `pa.array` may import pandas, and the loop would wait for it.
    offsets = struct.pack("=ii", 0, len(address))
    parsed = parse_urls(pa.StringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(address)))
    return parsed.normalised[0], parsed.host[0], parsed.domain[0]
