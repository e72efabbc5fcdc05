"""A row's request, where it stands in the pool, and how it ended: the record that leaves the fetcher."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from multidict import istr
from yarl import URL

from turbo_fetch.outcomes import Outcome
from turbo_fetch.redaction import redact

HEADER_LIMIT_CHARACTERS: Final = 1000

# Names of this type are found in half the time.
_CONTENT_TYPE: Final = istr("Content-Type")
_ETAG: Final = istr("ETag")
_LAST_MODIFIED: Final = istr("Last-Modified")
_RETRY_AFTER: Final = istr("Retry-After")


@dataclass(frozen=True, slots=True)
class Fetched:
    """The end of one attempt, or of all attempts at a row; facts are those of the last attempt."""

    outcome: Outcome
    detail: str | None
    """Why it failed, the same text for the same failure; None on success."""
    body: bytes | memoryview | None
    """Not None exactly on success, unless a condition was sent and the answer is 304; its length is charged to the
    byte budget."""
    http_status: int | None
    """Status of the last response, if there was one."""
    attempts: int
    redirects: tuple[str, ...]
    """The addresses that were redirected to, in order."""
    final_url: str | None
    """The address that answered last, after redirects; None if none answered."""
    content_type: str | None
    etag: str | None
    last_modified: str | None
    body_bytes: int
    """Bytes of the body that were received, also when it failed."""
    started_us: int
    """Start in microseconds since the epoch."""
    first_byte_ms: float | None
    """Milliseconds from the start to the head of the last response."""
    total_ms: float
    """Milliseconds from the start to the end."""
    retry_after: str | None = None
    """The Retry-After header of the last response, as sent."""
    address: str | None = None
    """`final_url` with its secrets, but without a user name. It is never recorded."""
    held_s: float = 0.0
    """Seconds for which another attempt cannot end otherwise: until the host may be asked for its rules again."""


@dataclass(slots=True)
class Draft:
    """A Fetched in the making: what is known so far of the attempt that runs."""

    domain: str = ""
    """That of the row, whose bodies share a part of the memory."""
    started_us: int = field(default_factory=lambda: time.time_ns() // 1000)
    started_ns: int = field(default_factory=time.monotonic_ns)
    redirects: list[str] = field(default_factory=list)
    http_status: int | None = None
    final_url: str | None = None
    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    retry_after: str | None = None
    address: str | None = None
    first_byte_ms: float | None = None
    body_bytes: int = 0
    held_s: float = 0.0

    def answered(self, address: str, status: int, headers: Mapping[str, str]) -> None:
        """Note the head of a response."""
        self.first_byte_ms = self._elapsed_ms()
        self.final_url = redact(address)
        self.address = str(URL(address, encoded=True).with_user(None)) if "@" in address else address
        self.http_status = status
        self.content_type = _clean(headers.get(_CONTENT_TYPE))
        self.etag = _clean(headers.get(_ETAG))
        self.last_modified = _clean(headers.get(_LAST_MODIFIED))
        self.retry_after = _clean(headers.get(_RETRY_AFTER))

    def end(self, outcome: Outcome, detail: str | None, body: bytes | memoryview | None = None) -> Fetched:
        """Return the finished record of this attempt."""
        return Fetched(
            outcome=outcome,
            detail=detail,
            body=body,
            http_status=self.http_status,
            attempts=1,
            redirects=tuple(self.redirects),
            final_url=self.final_url,
            content_type=self.content_type,
            etag=self.etag,
            last_modified=self.last_modified,
            body_bytes=self.body_bytes,
            started_us=self.started_us,
            first_byte_ms=self.first_byte_ms,
            total_ms=self._elapsed_ms(),
            retry_after=self.retry_after,
            address=self.address,
            held_s=self.held_s,
        )

    def pause(self, seconds: float) -> None:
        """Leave out a time in which the row waited for its turn."""
        self.started_ns += int(seconds * 1e9)

    def _elapsed_ms(self) -> float:
        return (time.monotonic_ns() - self.started_ns) / 1e6


def printable(text: str) -> str:
    """Return text from a server as valid Unicode of bounded length; undecodable bytes become U+FFFD."""
    text = text[:HEADER_LIMIT_CHARACTERS]
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _clean(value: str | None) -> str | None:
    return None if value is None else printable(value)


Done = Callable[[int, Fetched], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A row to fetch: its index in the shard, its normalised URL, and the domain that shares its limit.

    `headers` are sent besides those of the client.
    """

    row: int
    url: str
    domain: str
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Hop:
    """Where a redirect leads, and what is known so far; the row may have to wait for its turn there."""

    address: str
    domain: str
    draft: Draft
    visited: list[str]
    left_s: float
    """What is left of the time for the whole request."""
    led_by: str | None = None
    """The address that answered with the redirect; None if this is no redirect, but where a row begins."""
    since_s: float = field(default_factory=time.monotonic)


@dataclass(slots=True, eq=False)
class Row:
    """A row in the pool, ordered by submission."""

    sequence: int
    request: Request
    done: Done
    attempts: int = 0
    hop: Hop | None = None
    """Where a redirect has led it."""
    was_spared: bool = False
    """Whether it was asked again once as if nothing had been, though no outage was seen."""

    @property
    def address(self) -> str:
        """The address that is its next one."""
        return self.request.url if self.hop is None else self.hop.address

    @property
    def domain(self) -> str:
        """The domain of that."""
        return self.request.domain if self.hop is None else self.hop.domain

    def of_host(self, fetched: Fetched) -> Fetched:
        """Return how a request ended without what others answered before, where a redirect had led the row."""
        if self.hop is None:
            return fetched
        status = None if fetched.address == self.hop.led_by else fetched.http_status
        return replace(fetched, http_status=status, first_byte_ms=None)

    def __lt__(self, other: Row) -> bool:
        # Heaps compare rows a dozen times each; what dataclasses generate is ten times slower.
        return self.sequence < other.sequence
