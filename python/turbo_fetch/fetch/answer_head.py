"""The head of an answer, read with the patience of browsers and curl; pure functions of its bytes.

Servers of the real web send lines that no grammar knows. What has one plain meaning is taken in that meaning, and the
head is `odd`: nobody knows what else its server does, so its connection is not used again. What is no answer at all is
:class:`MalformedAnswer`, which says what is wrong with it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy, istr

MAX_HEAD_BYTES: Final = 262_144
"""Of all heads of one answer together, interim ones and trailers included, as in Chromium."""
MAX_HEADERS: Final = 2_000

_STATUS_LINE: Final = re.compile(
    rb"(?:HTTP(?:/(\d+)(?:\.(\d+))?)?|(ICY))(?![^ \t])[ \t]*(\d+)?[ \t]*(.*)", re.IGNORECASE | re.DOTALL
)
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_STRICT: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-9]\d\d) ([^\r\n\0]*+)\r\n((?:" + _TOKEN + rb":[^\r\n\0]*+\r\n)*+)"
)
"""A head as it should be, which nearly all are."""
_STRICT_HEADER: Final = re.compile(rb"([^:]+):[ \t]*([^\r]*)\r\n")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_NAMES: Final[dict[bytes, str]] = {}
"""Names of headers as multidict wants them; servers agree on a few hundred."""
_MAX_NAMES: Final = 512
_MAX_NAME_BYTES: Final = 64


class MalformedAnswer(HttpProcessingError):
    """An answer that cannot be read; `message` says why, the same text for the same fault."""


class Head(NamedTuple):
    """Status line and headers of one answer."""

    version: HttpVersion
    status: int
    reason: str
    headers: CIMultiDictProxy[str]
    raw_headers: tuple[tuple[bytes, bytes], ...]
    is_odd: bool
    """Whether a strict reader would have refused it."""

    @property
    def should_close(self) -> bool:
        """Whether the connection may not be used again."""
        if self.is_odd:
            return True
        connection = self.headers.get("Connection")
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
    """Raise MalformedAnswer if the first eight bytes of an answer, or more, cannot begin one."""
    beginning = bytes(data[:8])
    if beginning.startswith(b"HTTP/1."):
        return
    if beginning[:2] in {b"\x15\x03", b"\x16\x03"}:
        raise MalformedAnswer(message="the server speaks TLS where http was asked for")
    if not beginning.upper().startswith((b"HTTP", b"ICY ")):
        raise MalformedAnswer(message="the answer does not begin with an HTTP status line")


def parse_head(block: bytes) -> Head:
    """Read a head, given without its empty line; raises MalformedAnswer."""
    if block.count(b"\n") + block.count(b"\r") > 2 * MAX_HEADERS + 2:
        raise MalformedAnswer(message=f"more than {MAX_HEADERS} headers")
    strict = _STRICT.fullmatch(block)
    if strict is None:
        return _parse_odd_head(block)
    minor, code, reason, lines = strict.groups()
    raw_headers = _STRICT_HEADER.findall(lines)
    if b" \r" in lines or b"\t\r" in lines:
        raw_headers = [(name, value.rstrip(b" \t")) for name, value in raw_headers]
    version = HttpVersion11 if minor == b"1" else HttpVersion10
    return _head(version, int(code), reason, raw_headers, is_odd=False)


def _parse_odd_head(block: bytes) -> Head:
    first, *lines = _LINE_END.split(block.replace(b"\0", b"").removesuffix(b"\n").removesuffix(b"\r"))
    version, code, reason = _status_line(first)
    return _head(version, code, reason, _raw_headers(lines), is_odd=True)


def _head(
    version: HttpVersion, status: int, reason: bytes, raw_headers: list[tuple[bytes, bytes]], *, is_odd: bool
) -> Head:
    headers = CIMultiDict(
        [
            (_NAMES.get(name) or _name(name), value.decode("utf-8", "surrogateescape"))
            for name, value in raw_headers
        ]
    )
    text = reason.decode("utf-8", "surrogateescape")
    return Head(version, status, text, CIMultiDictProxy(headers), tuple(raw_headers), is_odd)


def _status_line(line: bytes) -> tuple[HttpVersion, int, bytes]:
    """Return version, status and reason."""
    match = _STATUS_LINE.match(line)
    if match is None:
        raise MalformedAnswer(message="the answer does not begin with an HTTP status line")
    major, minor, _, code, reason = match.groups()
    # Browsers take a line without a number for 200, and one without a version for HTTP/1.0.
    status = 200 if code is None else int(code[:9])
    if not 100 <= status <= 999:
        raise MalformedAnswer(message=f"the status {status} is not between 100 and 999")
    numbers = (int(major[:3]), int(minor[:3] if minor else 0)) if major else (1, 0)
    return HttpVersion(*numbers), status, reason.strip()


def _raw_headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return names and values: a folded line is joined to the one before, one without a colon or a name is left out."""
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        name, colon, value = (part.strip(b" \t") for part in line.partition(b":"))
        if line[:1] in {b" ", b"\t"} and headers:
            name, value = headers[-1]
            headers[-1] = (name, (value + b" " + line.strip(b" \t")).strip(b" \t"))
        elif colon and name:
            headers.append((name, value))
    return headers


def _name(raw: bytes) -> str:
    """Return the name of a header, kept for the next answers if it is short."""
    name = istr(raw.decode("utf-8", "surrogateescape"))
    if len(raw) <= _MAX_NAME_BYTES:
        if len(_NAMES) >= _MAX_NAMES:
            _NAMES.clear()
        _NAMES[raw] = name
    return name
