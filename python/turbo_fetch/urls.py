"""Addresses of a list, parsed natively: what to request, and which domain answers for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from turbo_fetch import _native


@dataclass(frozen=True, slots=True)
class ParsedUrls:
    """The parsed URLs of some rows; for each row either `error` or the other two are None."""

    normalised: list[str | None]
    domain: list[str | None]
    """Registrable domain by the public suffix list, or the host where it has none."""
    error: list[str | None]


def parse_urls(urls: pa.Array) -> ParsedUrls:
    """Parse an array of strings; a URL that cannot be used is an error in its row, never an exception."""
    parsed = pa.record_batch(_native.parse_urls(urls))
    return ParsedUrls(*(parsed.column(name).to_pylist() for name in ("normalised", "domain", "error")))


def count_domains(urls: pa.Array) -> Counter[str]:
    """Return how many of the URLs each domain has; those without one are left out."""
    return Counter(domain for domain in parse_urls(urls).domain if domain is not None)
