"""What servers of the real web do to HTTP, one entry each, and what a tool that wants the image should make of it.

The measure is the world: an entry expects the image if curl or a browser gets it, else an outcome that says what is
wrong. `bench/tolerance.py` asks curl, a browser and other tools; the tests ask this project.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import brotli
import zstandard

from raw_origin import CLOSE, Pause, Script
from turbo_fetch.outcomes import Outcome

OK = b"HTTP/1.1 200 OK"
SOON = Pause(0.02)
Failure = tuple[Outcome, str]


@dataclass(frozen=True, slots=True)
class Oddity:
    """One kind of server behaviour."""

    name: str
    """What the server does, in a few words."""
    kind: str
    scripts: Mapping[str, Script]
    """By target; the first one is asked for, unless there is an `address`."""
    failure: Failure | None = None
    """How it should end where there is no image to be had."""
    address: str | None = field(default=None)
    """The path as a list has it, if it is not that of the first script."""

    @property
    def target(self) -> str:
        """What a list says, after scheme and host."""
        return next(iter(self.scripts)) if self.address is None else self.address


def head(*lines: bytes, first: bytes = OK) -> bytes:
    """Return a head of a status line and header lines."""
    return b"\r\n".join([first, *lines, b"", b""])


def oddities(image: bytes) -> list[Oddity]:
    """Return all of them, each of which serves the same image."""
    tables = (status_lines, headers, lengths, chunks, interim, codings, redirects, addresses)
    return [oddity for table in tables for oddity in table(image)]


def _listed(kind: str, entries: Mapping[str, Script | tuple[Script, Failure]]) -> list[Oddity]:
    listed = []
    for number, (name, entry) in enumerate(entries.items()):
        script, failure = entry if isinstance(entry, tuple) else (entry, None)
        listed.append(Oddity(name, kind, {f"/{kind.replace(' ', '-')}/{number}.jpg": script}, failure))
    return listed


def _protocol(detail: str) -> Failure:
    return Outcome.PROTOCOL, detail


def status_lines(image: bytes) -> list[Oddity]:
    """Status lines that no grammar knows."""
    length = b"Content-Length: %d" % len(image)

    def line(first: bytes, before: bytes = b"") -> Script:
        return [before + head(length, first=first) + image]

    bare: Script = [image, CLOSE]
    page: Script = [b"<html>no</html>", CLOSE]
    alert: Script = [b"\x15\x03\x01\0\x02\x02\x50 more", CLOSE]
    no_http = _protocol("the response does not begin with an HTTP status line")
    return _listed(
        "status line",
        {
            "no reason": line(b"HTTP/1.1 200"),
            "no reason after a space": line(b"HTTP/1.1 200 "),
            "in lower case": line(b"http/1.1 200 ok"),
            "ICY, as Shoutcast says it": line(b"ICY 200 OK"),
            "HTTP/1.0 with a length": line(b"HTTP/1.0 200 OK"),
            "HTTP/1.0 without a length": [head(first=b"HTTP/1.0 200 OK") + image, CLOSE],
            "HTTP/1.2": line(b"HTTP/1.2 200 OK"),
            "HTTP/2 in text": line(b"HTTP/2 200 OK"),
            "HTTP/2.0 in text": line(b"HTTP/2.0 200 OK"),
            "no version": line(b"HTTP 200 OK"),
            "no number": line(b"HTTP/1.1 OK"),
            "no space after the number": line(b"HTTP/1.1 200OK"),
            "two spaces": line(b"HTTP/1.1  200  OK"),
            "tabs for spaces": line(b"HTTP/1.1\t200\tOK"),
            "a reason in Latin-1": line("HTTP/1.1 200 Très bien".encode("latin-1")),
            "a reason of 10 kB": line(b"HTTP/1.1 200 " + b"x" * 10_000),
            "empty lines before it": line(OK, b"\r\n\r\n"),
            "none: a bare image (HTTP/0.9)": (bare, no_http),
            "none: a bare page": (page, no_http),
            "a number of four digits": (
                line(b"HTTP/1.1 2000 OK"),
                _protocol("the status 2000 is not between 100 and 999"),
            ),
            "TLS where http was asked for": (
                alert,
                _protocol("the server speaks TLS where http was asked for"),
            ),
        },
    )


def headers(image: bytes) -> list[Oddity]:
    """Header lines that no grammar knows, and many or long ones."""
    length = b"Content-Length: %d" % len(image)

    def lines(*more: bytes) -> Script:
        return [head(b"Content-Type: image/jpeg", *more, length) + image]

    whole = head(b"Content-Type: image/jpeg", length)
    return _listed(
        "headers",
        {
            "a line of 9 kB": lines(b"X-Long: " + b"x" * 9_000),
            "a line of 60 kB": lines(b"X-Long: " + b"x" * 60_000),
            "150 of them": lines(*(b"X-%d: x" % number for number in range(150))),
            "600 of them": lines(*(b"X-%d: x" % number for number in range(600))),
            "120 kB of cookies": lines(*[b"Set-Cookie: a=" + b"x" * 3_000] * 40),
            "300 kB": (lines(*[b"X-Long: " + b"x" * 3_000] * 100), _protocol("headers larger than 256 KiB")),
            "an endless line": (
                [OK + b"\r\nX: ", *[b"x" * 65_536] * 5],
                _protocol("headers larger than 256 KiB"),
            ),
            "none at all": [OK + b"\r\n\r\n" + image, CLOSE],
            "a space before the colon": [
                head(b"Content-Type : image/jpeg", length.replace(b":", b" :")) + image
            ],
            "a space in a name": lines(b"X Powered By: PHP"),
            "a line without a colon": lines(b"HTTP/1.1 200 OK"),
            "a name that is empty": lines(b": nothing"),
            "a name in Latin-1": lines(b"X-Caf\xe9: x"),
            "a value in Latin-1": lines(b"X-Name: caf\xe9"),
            "a folded value": lines(b"X-Folded: one,\r\n two,\r\n\tthree"),
            "a folded first line": [OK + b"\r\n folded\r\n" + length + b"\r\n\r\n" + image],
            "LF alone": [whole.replace(b"\r\n", b"\n") + image],
            "LF alone, but CRLF at the end": [whole[:-2].replace(b"\r\n", b"\n") + b"\r\n" + image],
            "CR alone in a value": lines(b"X-CR: one\rtwo"),
            "a NUL in a value": lines(b"X-Nul: one\0two"),
            "a control character in a value": lines(b"X-Control: one\x01two\x7f"),
            "no space after the colon": [head(b"Content-Length:%d" % len(image)) + image],
            "names in capitals": [head(length.upper()) + image],
            "byte by byte": [*(whole[at : at + 1] for at in range(len(whole))), image],
            "cut in the middle of the line end": [whole[:-3], SOON, whole[-3:-1], SOON, whole[-1:] + image],
        },
    )


def lengths(image: bytes) -> list[Oddity]:
    """Lengths that are missing, wrong or said twice, and bytes after the body."""
    size = len(image)

    def said(*values: bytes, after: bytes = b"", end: Script = ()) -> Script:
        return [head(*(b"Content-Length: " + value for value in values)) + image + after, *end]

    right = b"%d" % size
    ended = Outcome.TRUNCATED, "body ended early"
    return _listed(
        "length",
        {
            "said twice": said(right, right),
            "said twice in one line": said(right + b", " + right),
            "two that differ, the last right": said(b"10", right),
            "two that differ, the first right": said(right, b"%d" % (size + 9), end=[CLOSE]),
            "no number": said(b"unknown", end=[CLOSE]),
            "negative": said(b"-1", end=[CLOSE]),
            "empty": said(b"", end=[CLOSE]),
            "with a sign": said(b"+" + right, end=[CLOSE]),
            "with zeros before it": said(b"000" + right),
            "with a unit": said(right + b" bytes"),
            "with a comma after it": said(right + b","),
            "of 30 digits": said(b"9" * 30, end=[CLOSE]),
            "none, until the end": [head() + image, CLOSE],
            "none, though the connection is to be kept": [head(b"Connection: keep-alive") + image, CLOSE],
            "too large": (said(b"%d" % (size + 1), end=[CLOSE]), ended),
            "right, and the connection is said to end but does not": [
                head(b"Connection: close", b"Content-Length: " + right) + image,
                Pause(0.3),
            ],
            "bytes after the body": said(right, after=b"more"),
            "bytes after the body, of their own": [*said(right), SOON, b"<html>more</html>"],
            "a line end after the body": said(right, after=b"\r\n"),
            "an answer after the body": said(right, after=head(b"Content-Length: 1") + b"x"),
        },
    )


def chunks(image: bytes) -> list[Oddity]:
    """Chunks, well and badly made, and other transfer codings."""
    chunked = b"Transfer-Encoding: chunked"
    size = b"%x" % len(image)

    def sent(line: bytes = size, after: bytes = b"\r\n", last: bytes = b"0\r\n\r\n", *more: bytes) -> Script:
        return [head(chunked, *more) + line + b"\r\n" + image + after + last]

    parts = [image[at : at + 7] for at in range(0, len(image), 7)]
    packed = gzip.compress(image)
    one, one_packed = (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) for body in (image, packed))
    return _listed(
        "chunks",
        {
            "many small ones": [
                head(chunked),
                *(b"%x\r\n%b\r\n" % (len(part), part) for part in parts),
                b"0\r\n\r\n",
            ],
            "with extensions": sent(size + b';name="value"; other'),
            "with zeros before the size": sent(b"0000" + size),
            "sizes in capitals": sent(size.upper()),
            "a space after the size": sent(size + b"  "),
            "a space before the size": sent(b" " + size),
            "LF alone": [head(chunked) + size + b"\n" + image + b"\n0\n\n"],
            "with a trailer": sent(last=b"0\r\nX-Check: 1\r\n\r\n"),
            "zeros for the last": sent(last=b"00000\r\n\r\n"),
            "no empty line at the end": [*sent(last=b"0\r\n"), CLOSE],
            "no last one": ([*sent(last=b""), CLOSE], (Outcome.TRUNCATED, "body ended early")),
            "a size that is no number": (
                sent(b"size"),
                _protocol("the size of a chunk is not a hexadecimal number"),
            ),
            "a size with 0x": sent(b"0x" + size),
            "a million of one byte": (
                [head(chunked) + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n"],
                _protocol("more than 1000 chunks of a few bytes"),
            ),
            "none, in HTTP/1.0": [head(chunked, first=b"HTTP/1.0 200 OK") + image, CLOSE],
            "a size that is too small": (
                sent(b"7"),
                _protocol("a chunk is longer than its size says"),
            ),
            "and a length": sent(size, b"\r\n", b"0\r\n\r\n", b"Content-Length: 5"),
            "in HTTP/1.0": [head(chunked, first=b"HTTP/1.0 200 OK") + one, CLOSE],
            "in capitals": [head(chunked.upper()) + one],
            "identity and a length": [
                head(b"Transfer-Encoding: identity", b"Content-Length: %d" % len(image)) + image
            ],
            "gzip, chunked": [head(b"Transfer-Encoding: gzip, chunked") + one_packed],
            "gzip and chunked in two lines": [head(b"Transfer-Encoding: gzip", chunked) + one_packed],
        },
    )


def interim(image: bytes) -> list[Oddity]:
    """Answers before the answer."""
    final = head(b"Content-Length: %d" % len(image)) + image

    def before(*heads: bytes) -> Script:
        return [b"".join(heads) + final]

    proceed = b"HTTP/1.1 100 Continue\r\n\r\n"
    return _listed(
        "interim",
        {
            "100": before(proceed),
            "100, then a pause": [proceed, SOON, final],
            "103 with headers": before(
                head(b"Link: </a.css>; rel=preload", first=b"HTTP/1.1 103 Early Hints")
            ),
            "102 three times": before(*[b"HTTP/1.1 102 Processing\r\n\r\n"] * 3),
            "100 ten thousand times": (
                before(*[proceed] * 10_000),
                _protocol("more than 32 interim responses"),
            ),
        },
    )


def codings(image: bytes) -> list[Oddity]:
    """Bodies that are packed though nobody asked for it, or said to be."""
    gzipped, zipped = gzip.compress(image), zlib.compress(image)
    raw = zlib.compressobj(wbits=-15)
    deflated = raw.compress(image) + raw.flush()
    half = len(image) // 2
    br, zstd = brotli.compress(image), zstandard.ZstdCompressor().compress(image)

    twice = brotli.compress(gzipped)

    def packed(coding: bytes, body: bytes) -> Script:
        return [head(b"Content-Encoding: " + coding, b"Content-Length: %d" % len(body)) + body]

    return _listed(
        "coding",
        {
            "gzip": packed(b"gzip", gzipped),
            "x-gzip": packed(b"x-gzip", gzipped),
            "GZIP in capitals": packed(b" GZIP ", gzipped),
            "gzip of two members": packed(b"gzip", gzip.compress(image[:half]) + gzip.compress(image[half:])),
            "gzip and bytes after it": packed(b"gzip", gzipped + b"\0\0more"),
            "gzip twice": packed(b"gzip, gzip", gzip.compress(gzipped)),
            "gzip with the length of what is packed": [
                head(b"Content-Encoding: gzip", b"Content-Length: %d" % len(image)) + gzipped,
                CLOSE,
            ],
            "gzip that is deflate": packed(b"gzip", zipped),
            "deflate that is gzip": packed(b"deflate", gzipped),
            "gzip in quotation marks": packed(b'"gzip"', gzipped),
            "chunked, as a Content-Encoding": packed(b"chunked", image),
            "aws-chunked": packed(b"aws-chunked", image),
            "gzip, then br, in two lines": [
                head(b"Content-Encoding: gzip", b"Content-Encoding: br", b"Content-Length: %d" % len(twice))
                + twice
            ],
            "deflate": packed(b"deflate", zipped),
            "deflate without a wrapping": packed(b"deflate", deflated),
            "br": packed(b"br", br),
            "zstd": packed(b"zstd", zstd),
            "identity": packed(b"identity", image),
            "empty": packed(b"", image),
            "none": packed(b"none", image),
            "utf-8": packed(b"UTF-8", image),
            "gzip, but it is not": packed(b"gzip", image),
            "br, but it is not": packed(b"br", image),
            "deflate, but it is not": packed(b"deflate", image),
            "zstd, but it is not": packed(b"zstd", image),
            "one that nobody knows": (packed(b"lzma", zipped), _protocol("unknown Content-Encoding: lzma")),
            "gzip that ends early": (
                packed(b"gzip", gzipped[:-20]),
                _protocol("the body ends before its gzip does"),
            ),
            "gzip that is broken": (
                packed(b"gzip", gzipped[:20] + bytes(40) + gzipped[60:]),
                _protocol("the body is not gzip, as its headers say"),
            ),
            "a bomb": (
                packed(b"gzip, gzip", gzip.compress(gzip.compress(bytes(50_000_000)))),
                (Outcome.TOO_LARGE, "body larger than 1 MB"),
            ),
        },
    )


def redirects(image: bytes) -> list[Oddity]:
    """Locations that are to be resolved as browsers do, and sent as they came."""
    served: Script = [head(b"Content-Length: %d" % len(image)) + image]
    locations: dict[str, tuple[bytes, str]] = {
        "%27 in the path": (b"/r/it%27s.jpg", "/r/it%27s.jpg"),
        "%2F in the path": (b"/r/a%2Fb.jpg", "/r/a%2Fb.jpg"),
        "%26 in the query": (b"/r/a.jpg?name=a%26b&sig=%2B%3D%2f", "/r/a.jpg?name=a%26b&sig=%2B%3D%2f"),
        "%41 in the path": (b"/r/%41.jpg", "/r/%41.jpg"),
        "%zz in the path": (b"/r/%zz.jpg", "/r/%zz.jpg"),
        "+ and %20 in the query": (b"/r/b.jpg?q=a+b%20c", "/r/b.jpg?q=a+b%20c"),
        "Latin-1 in the path": (b"/r/synspr\xf8ve.jpg", "/r/synspr%F8ve.jpg"),
        "UTF-8 in the path": ("/r/café.jpg".encode(), "/r/caf%C3%A9.jpg"),
        "a space in the path": (b"/r/a b.jpg", "/r/a%20b.jpg"),
        "quotation marks in the path": (b'/r/a"b.jpg', "/r/a%22b.jpg"),
        "a backslash": (b"\\r\\c.jpg", "/r/c.jpg"),
        "a bar and brackets": (b"/r/a|[b].jpg", "/r/a|[b].jpg"),
        "a question mark at the end": (b"/r/d.jpg?", "/r/d.jpg?"),
        "two slashes in the path": (b"/r//e.jpg", "/r//e.jpg"),
        "a relative path": (b"f.jpg", "/redirect/f.jpg"),
        "a path with dots": (b"../r/./x/../g.jpg", "/r/g.jpg"),
        "a query alone": (b"?h", "/redirect/16.jpg?h"),
        "a fragment": (b"/r/i.jpg#top", "/r/i.jpg"),
        "spaces around it": (b"  /r/j.jpg  ", "/r/j.jpg"),
        "a tab in it": (b"/r/k\t.jpg", "/r/k.jpg"),
    }
    listed = []
    for number, (name, (location, onward)) in enumerate(locations.items()):
        scripts: dict[str, Script] = {
            f"/redirect/{number}.jpg": [
                head(b"Location: " + location, b"Content-Length: 0", first=b"HTTP/1.1 302 Found")
            ],
            onward: served,
        }
        listed.append(Oddity(name, "redirect", scripts))
    to_l = (b"Location: /r/l.jpg", b"Content-Length: 0")
    moved = {
        "300 with a Location": head(*to_l, first=b"HTTP/1.1 300 Multiple Choices"),
        "303": head(*to_l, first=b"HTTP/1.1 303 See Other"),
        "307": head(*to_l, first=b"HTTP/1.1 307 Temporary Redirect"),
        "308": head(*to_l, first=b"HTTP/1.1 308 Permanent Redirect"),
        "with a page": head(b"Location: /r/l.jpg", b"Content-Length: 5", first=b"HTTP/1.1 301 Moved")
        + b"moved",
        "location in lower case": head(b"location:/r/l.jpg", b"Content-Length: 0", first=b"HTTP/1.1 301"),
        "said twice": head(*[b"Location: /r/l.jpg"] * 2, b"Content-Length: 0", first=b"HTTP/1.1 301 Moved"),
    }
    for number, (name, answer) in enumerate(moved.items()):
        listed.append(Oddity(name, "redirect", {f"/moved/{number}.jpg": [answer], "/r/l.jpg": served}))
    without_length = head(b"Location: /r/m.jpg", first=b"HTTP/1.1 302 Found") + b"moved"
    listed.append(
        Oddity("without a length", "redirect", {"/moved/m.jpg": [without_length, CLOSE], "/r/m.jpg": served})
    )
    nowhere = head(b"Content-Length: 0", first=b"HTTP/1.1 302 Found")
    failure = Outcome.REDIRECT, "redirect without a usable Location"
    listed.append(Oddity("without a Location", "redirect", {"/moved/n.jpg": [nowhere]}, failure))
    return listed


def addresses(image: bytes) -> list[Oddity]:
    """Addresses of lists that servers compare byte for byte; what is sent is what browsers send."""
    served: Script = [head(b"Content-Length: %d" % len(image)) + image]
    listed = {
        "%27": ("/a/it%27s.jpg", "/a/it%27s.jpg"),
        "an apostrophe": ("/a/it's.jpg", "/a/it's.jpg"),
        "%2F": ("/a/a%2Fb.jpg", "/a/a%2Fb.jpg"),
        "%2f in lower case": ("/a/a%2fb.jpg", "/a/a%2fb.jpg"),
        "%41": ("/a/%41.jpg", "/a/%41.jpg"),
        "%zz": ("/a/%zz.jpg", "/a/%zz.jpg"),
        "%25zz": ("/a/%25zz.jpg", "/a/%25zz.jpg"),
        "%26 and %2B in the query": ("/a/q.jpg?a=b%26c&d=%2B+e", "/a/q.jpg?a=b%26c&d=%2B+e"),
        "|": ("/a/a|b.jpg", "/a/a|b.jpg"),
        "brackets": ("/a/[a].jpg", "/a/[a].jpg"),
        "; and =": ("/a/b;c=d,e.jpg", "/a/b;c=d,e.jpg"),
        "a question mark at the end": ("/a/e.jpg?", "/a/e.jpg?"),
        "two slashes": ("/a//f.jpg", "/a//f.jpg"),
        "a quotation mark": ('/a/a"b.jpg', "/a/a%22b.jpg"),
        "a space": ("/a/a b.jpg", "/a/a%20b.jpg"),
        "UTF-8": ("/a/café.jpg", "/a/caf%C3%A9.jpg"),
        "UTF-8 in the query": ("/a/g.jpg?é", "/a/g.jpg?%C3%A9"),
        "an @ and a colon": ("/a/@h:i.jpg", "/a/@h:i.jpg"),
        "*, !, ( and )": ("/a/(j)*!.jpg", "/a/(j)*!.jpg"),
        "~ and $": ("/a/~k$.jpg", "/a/~k$.jpg"),
    }
    return [
        Oddity(name, "address", {sent: served}, address=address) for name, (address, sent) in listed.items()
    ]
