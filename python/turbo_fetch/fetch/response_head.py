"""The head of a response, and how the body that follows is framed; pure functions of its bytes.

Servers of the real web send lines that no grammar knows. They are read with the patience of browsers and curl: what
has one plain meaning is taken in that meaning, and the head is `odd`: nobody knows what else its server does, so its
connection is not used again. What is no response at all is :class:`MalformedResponse`, which says what is wrong with
it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy, istr

from turbo_fetch.fetch.library_internals import HttpProcessingError

MAX_HEAD_BYTES: Final = 262_144
"""Of all heads of one response together, interim ones and trailers included, as in Chromium."""
MAX_HEADERS: Final = 2_000
TOO_MANY_HEADERS: Final = f"more than {MAX_HEADERS} headers"

_STATUS_LINE: Final = re.compile(
    r"(?:HTTP(?:/(\d+)(?:\.(\d+))?)?|(ICY))(?![^ \t])[ \t]*(\d+)?[ \t]*(.*)",
    re.IGNORECASE | re.DOTALL | re.ASCII,
)
_STRICT_HEADER: Final = re.compile(r"\r\n([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)")
# Names of this type are found in half the time.
_CONNECTION: Final = istr("Connection")
_CONTENT_LENGTH: Final = istr("Content-Length")
_CONTENT_ENCODING: Final = istr("Content-Encoding")
_TRANSFER_ENCODING: Final = istr("Transfer-Encoding")
_LINE_END: Final = re.compile(r"\r\n|\n|\r")
_STRICT_VERSIONS: Final = {"HTTP/1.1 ": HttpVersion11, "HTTP/1.0 ": HttpVersion10}


class MalformedResponse(HttpProcessingError):
    """A response that cannot be read; `message` says why, the same text for the same fault."""


class Head(NamedTuple):
    """Status line and headers of one response."""

    version: HttpVersion
    status: int
    reason: str
    headers: CIMultiDictProxy[str]
    """Bytes that are not UTF-8 are kept as surrogates, as aiohttp keeps them."""
    is_odd: bool
    """Whether a strict reader would have refused it."""

    @property
    def should_close(self) -> bool:
        """Whether the connection may not be used again."""
        if self.is_odd:
            return True
        connection = self.headers.get(_CONNECTION)
        if connection is None or connection == "keep-alive":
            return self.version != HttpVersion11 and connection is None
        tokens = {token.strip() for token in connection.lower().split(",")}
        return "close" in tokens or (self.version != HttpVersion11 and "keep-alive" not in tokens)


def end_of_head(data: bytes | bytearray, start: int) -> tuple[int, int] | None:
    """Return where the first empty line at or after `start` begins and ends, or None if there is none yet."""
    crlf = data.find(b"\n\r\n", start)
    lone = data.find(b"\n\n", start, crlf + 1 if crlf >= 0 else len(data))
    if lone >= 0:
        return lone + 1, lone + 2
    return (crlf + 1, crlf + 3) if crlf >= 0 else None


def check_beginning(data: bytes | bytearray) -> None:
    """Raise MalformedResponse if the first eight bytes of a response, or more, cannot begin one."""
    beginning = bytes(data[:8])
    if beginning.startswith(b"HTTP/1."):
        return
    if beginning[:2] in {b"\x15\x03", b"\x16\x03"}:
        raise MalformedResponse(message="the server speaks TLS where http was asked for")
    if not beginning.upper().startswith((b"HTTP", b"ICY ")):
        raise MalformedResponse(message="the response does not begin with an HTTP status line")


def parse_head(block: bytes) -> Head:
    """Read a head, given without its empty line; raises MalformedResponse."""
    lines = block.count(b"\n")
    if lines + block.count(b"\r") > 2 * MAX_HEADERS + 2:
        raise MalformedResponse(message=TOO_MANY_HEADERS)
    text = block.decode("utf-8", "surrogateescape")
    return _strict_head(text, lines) or _odd_head(text)


def _strict_head(text: str, lines: int) -> Head | None:
    """Return the head if it is as it should be, as nearly all are."""
    version = _STRICT_VERSIONS.get(text[:9])
    code = text[9:12]
    headers = _STRICT_HEADER.findall(text)
    # As many headers as line ends, and no other control character of lines, leave room for nothing else.
    if version is None or len(headers) != lines - 1 or text.count("\r") != lines or "\0" in text:
        return None
    if not (code.isascii() and code.isdigit() and code >= "100" and text[12:13] == " "):
        return None
    if " \r" in text or "\t\r" in text:
        headers = [(name, value.rstrip(" \t")) for name, value in headers]
    reason = text[13 : text.index("\r")]
    return Head(version, int(code), reason, CIMultiDictProxy(CIMultiDict(headers)), False)


def _odd_head(text: str) -> Head:
    first, *lines = _LINE_END.split(text.replace("\0", "").removesuffix("\n").removesuffix("\r"))
    match = _STATUS_LINE.match(first)
    if match is None:
        raise MalformedResponse(message="the response does not begin with an HTTP status line")
    major, minor, _, code, reason = match.groups()
    # Browsers take a line without a number for 200, and one without a version for HTTP/1.0.
    status = 200 if code is None else int(code[:9])
    if not 100 <= status <= 999:
        raise MalformedResponse(message=f"the status {status} is not between 100 and 999")
    version = HttpVersion(int(major[:3]), int(minor[:3] if minor else 0)) if major else HttpVersion10
    headers = CIMultiDictProxy(CIMultiDict(_odd_headers(lines)))
    return Head(version, status, reason.strip(), headers, True)


def _odd_headers(lines: list[str]) -> list[tuple[str, str]]:
    """Return names and values: a folded line is joined to the one before, one without a colon or a name is left out."""
    headers: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = (part.strip(" \t") for part in line.partition(":"))
        if line[:1] in {" ", "\t"} and headers:
            last_name, last_value = headers[-1]
            folded = line.strip(" \t")
            headers[-1] = (last_name, f"{last_value} {folded}".strip(" \t"))
        elif colon and name:
            headers.append((name, value))
    return headers


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
    """Return how the body of a response to GET is framed; RFC 9112, 6.3, where the head is as it should be."""
    if head.status < 200 or head.status in _BODILESS:
        return NO_BODY
    headers = head.headers
    lengths = headers.getall(_CONTENT_LENGTH, ())
    is_plain = _CONTENT_ENCODING not in headers and _TRANSFER_ENCODING not in headers
    if is_plain and len(lengths) == 1 and _is_number(lengths[0]):
        return Framing(int(lengths[0]))
    encodings, transfers = headers.getall(_CONTENT_ENCODING, ()), headers.getall(_TRANSFER_ENCODING, ())
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
    # Of lengths that differ the last one counts, as in curl; browsers refuse such a response.
    numbers = [int(value) for value in values]
    others_said = frozenset(numbers[:-1]) - {numbers[-1]}
    return Framing(numbers[-1], other_lengths=others_said, codings=codings, is_odd=len(numbers) > 1)


def _tokens(values: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Return the codings that headers list, without parameters, and without those that change nothing."""
    tokens = (token.partition(";")[0].strip('" \t').lower() for value in values for token in value.split(","))
    return tuple(token for token in tokens if token not in _UNCHANGED)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_LENGTH_DIGITS
