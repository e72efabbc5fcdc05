"""Lines of robots.txt: which of them concern one crawler (RFC 9309, 2.2), and what they say to it.

Fields are read as generously as protego reads them: without a colon, and misspelt as they often are. Crawlers are named
as Google reads it: a name ends at the first character that is not a letter, `_` or `-`.
https://developers.google.com/crawling/docs/robots-txt/robots-txt-spec
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

AGENT: Final = "user-agent"
ALLOW: Final = "allow"
DISALLOW: Final = "disallow"
CRAWL_DELAY: Final = "crawl-delay"
CONTENT_USAGE: Final = "content-usage"
_SITE_WIDE: Final = "sitemap"
_UNUSED: Final = "request-rate"

_FIELDS: Final = {
    "user-agent": AGENT, "useragent": AGENT, "user agent": AGENT,
    "allow": ALLOW,
    "disallow": DISALLOW, "dissallow": DISALLOW, "dissalow": DISALLOW, "disalow": DISALLOW,
    "diasllow": DISALLOW, "disallaw": DISALLOW,
    "crawl-delay": CRAWL_DELAY, "crawl delay": CRAWL_DELAY,
    "content-usage": CONTENT_USAGE,
    "sitemap": _SITE_WIDE, "sitemaps": _SITE_WIDE, "site-map": _SITE_WIDE, "host": _SITE_WIDE,
    "request-rate": _UNUSED, "request rate": _UNUSED, "visit-time": _UNUSED, "visit time": _UNUSED,
}  # fmt: skip
_LINE_ENDS: Final = re.compile(r"\r\n?|\n")
_EVERYBODY: Final = re.compile(r"\*(\s|$)")
_IN_A_NAME: Final = re.compile(r"[A-Za-z_-]")


@dataclass(slots=True)
class Group:
    """What a file says to one crawler, in its order."""

    rules: list[tuple[str, bool]] = field(default_factory=list)
    """Paths and patterns as they are written, and whether they are allowed."""
    usage: list[tuple[str, str]] = field(default_factory=list)
    """Paths and patterns of Content-Usage rules, empty for all paths, and the expressions."""
    crawl_delay_s: float | None = None

    def take(self, name: str, value: str) -> None:
        """Take the value of a line whose field is `name`."""
        if name == ALLOW:
            self.rules.append((value, True))
            # What lets the page of a folder be read lets the folder be, as Google has it.
            folder, _, page = value.rpartition("/")
            if page.startswith("index.htm"):
                self.rules.append((f"{folder}/$", True))
        elif name == DISALLOW:
            self.rules.append((value, False))
        elif name == CONTENT_USAGE:
            # Without a path, the rule is for all of them.
            path, _, expression = (
                value.replace("\t", " ").partition(" ") if value[0] == "/" else ("", "", value)
            )
            self.usage.append((path, expression.strip()))
        elif name == CRAWL_DELAY:
            self.crawl_delay_s = _seconds(value, self.crawl_delay_s)


def read_group(text: str, token: str) -> Group:
    """Return what a file says to the crawler with a product token in lower case: the groups that name it, else those
    for all.

    Takes time and memory linear in the text. Lines of other crawlers are dropped, since a file may name thousands of
    them before thousands of rules.
    """
    ours, everybodys = Group(), Group()
    is_named = in_rules = False
    concerned: list[Group] = []
    for name, value in _directives(text):
        if name == AGENT:
            if in_rules:
                concerned, in_rules = [], False
            group = ours if _names(value, token) else everybodys if _EVERYBODY.match(value) else None
            is_named = is_named or group is ours
            if group is not None and not any(each is group for each in concerned):
                concerned.append(group)
        elif name != _SITE_WIDE:
            in_rules = True
            for group in concerned if value else ():
                group.take(name, value)
    return ours if is_named else everybodys


def _names(value: str, token: str) -> bool:
    """Whether a value begins with a crawler's whole name."""
    after = value[len(token) : len(token) + 1]
    return bool(token) and value[: len(token)].lower() == token and not _IN_A_NAME.match(after)


def _directives(text: str) -> Iterator[tuple[str, str]]:
    """Yield field and value of the lines whose field is known; others change nothing (RFC 9309, 2.2.4)."""
    for raw in _LINE_ENDS.split(text):
        line = raw.partition("#")[0].strip()
        written, colon, value = line.partition(":")
        name = _FIELDS.get(written.strip().lower())
        if name is not None and colon:
            yield name, value.strip()
            continue
        if colon and not value[:1].strip():
            continue
        words = line.split(None, 2)
        for count in (1, 2):
            name = _FIELDS.get(" ".join(words[:count]).lower()) if len(words) >= count else None
            if name is not None:
                yield name, " ".join(words[count:])
                break


def _seconds(text: str, otherwise: float | None) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return otherwise
    return seconds if math.isfinite(seconds) and seconds >= 0 else otherwise
