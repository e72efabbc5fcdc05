"""`data:` URLs (RFC 2397), decoded as browsers do: https://fetch.spec.whatwg.org/#data-url-processor."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from turbo_fetch.fetch.failures import KnownFailure, too_large
from turbo_fetch.outcomes import Outcome
from turbo_fetch.sources.source import CHUNK_BYTES

_BASE64_MARK: Final = re.compile(r"; *base64$", re.IGNORECASE)
_WHITE_SPACE: Final = re.compile(rb"[\t\n\f\r ]+")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]*")


class DataUrls:
    """The bytes that addresses hold themselves."""

    is_remote = False

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def chunks(self, address: str, start: int, stop: int | None) -> Iterator[bytes]:
        """See Source."""
        # Not before it is known to be small: of four characters come three bytes, or of three one.
        if len(address) > 4 * self._max_bytes:
            raise KnownFailure(too_large(self._max_bytes / 1e6))
        body = decoded(address)[start:stop]
        for at in range(0, len(body) + 1, CHUNK_BYTES):
            yield body[at : at + CHUNK_BYTES]


def decoded(address: str) -> bytes:
    """Return the bytes in a data URL; KnownFailure if it is malformed."""
    head, comma, data = address.strip().partition("#")[0].partition(",")
    if not comma:
        raise _malformed("no comma")
    body = unquote_to_bytes(data)
    if _BASE64_MARK.search(head.rstrip(" ")) is None:
        return body
    text = _WHITE_SPACE.sub(b"", body)
    if len(text) % 4 == 0:
        text = text.removesuffix(b"=").removesuffix(b"=")
    if len(text) % 4 == 1 or _BASE64.fullmatch(text) is None:
        raise _malformed("not base64")
    return binascii.a2b_base64(text + b"=" * (-len(text) % 4))


def media_type(address: str) -> str | None:
    """Return what a data URL says that it holds."""
    head = address.strip().partition(",")[0].partition(":")[2]
    return head.partition(";")[0].strip().lower()[:100] or None


def _malformed(why: str) -> KnownFailure:
    return KnownFailure((Outcome.URL, f"not a valid data URL: {why}"))
