"""How long the body of an answer is, and what it is packed in: decided from its head alone, as browsers and curl do."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from turbo_fetch.fetch.answer_head import Head

_BODILESS: Final = frozenset({204, 205, 304})
_MAX_LENGTH_DIGITS: Final = 18
_LENGTH: Final = re.compile(r"[ \t]*(\d+)?(?:[ \t;].*)?$", re.ASCII | re.DOTALL)
"""A length, and what may stand behind it: a unit, a parameter."""
_UNCHANGED: Final = frozenset({"", "identity", "none", "binary", "aws-chunked"})
"""The last is what S3 keeps of how a file was uploaded."""


class Framing(NamedTuple):
    """Where a body ends: after `length` bytes, with its last chunk, or, if neither is known, with the connection."""

    length: int | None = None
    is_chunked: bool = False
    other_lengths: frozenset[int] = frozenset()
    """What further Content-Length headers said: a connection that closes there was complete."""
    codings: tuple[str, ...] = ()
    """What was done to the body, in order, in lower case; to be undone from the last to the first."""
    is_odd: bool = False


NO_BODY: Final = Framing(length=0)


def framing_of(head: Head) -> Framing:
    """Return how the body of an answer to GET is framed; RFC 9112, 6.3, where the head is as it should be."""
    if head.status < 200 or head.status in _BODILESS:
        return NO_BODY
    headers = head.headers
    lengths = headers.getall("Content-Length", ())
    is_plain = "Content-Encoding" not in headers and "Transfer-Encoding" not in headers
    if is_plain and len(lengths) == 1 and _is_number(lengths[0]):
        return Framing(int(lengths[0]))
    encodings, transfers = headers.getall("Content-Encoding", ()), headers.getall("Transfer-Encoding", ())
    transfer_codings = _tokens(transfers)
    codings = tuple(coding for coding in _tokens(encodings) + transfer_codings if coding != "chunked")
    if "chunked" in transfer_codings:
        # Chunks say themselves where they end, so they count before any length, as everywhere.
        is_odd = bool(lengths) or transfer_codings.index("chunked") < len(transfer_codings) - 1
        return Framing(is_chunked=True, codings=codings, is_odd=is_odd)
    values = [
        number for value in lengths for part in value.split(",") if (number := _LENGTH.sub(r"\1", part))
    ]
    if not values or transfer_codings:
        return Framing(codings=codings, is_odd=bool(values))
    if not all(map(_is_number, values)):
        return Framing(codings=codings, is_odd=True)
    # Of lengths that differ the last one counts, as in curl; browsers refuse such an answer.
    numbers = [int(value) for value in values]
    others_said = frozenset(numbers[:-1]) - {numbers[-1]}
    return Framing(numbers[-1], other_lengths=others_said, codings=codings, is_odd=len(numbers) > 1)


def _tokens(values: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Return the codings that headers list, without parameters, and without those that change nothing."""
    tokens = (token.partition(";")[0].strip('" \t').lower() for value in values for token in value.split(","))
    return tuple(token for token in tokens if token not in _UNCHANGED)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_LENGTH_DIGITS
