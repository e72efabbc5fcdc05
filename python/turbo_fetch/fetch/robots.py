"""robots.txt by RFC 9309: what it says to one crawler about its host's paths.

`robots_lines` finds what concerns us. Content-Usage rules are those of
https://datatracker.ietf.org/doc/draft-ietf-aipref-attach/. Paths and patterns (RFC 9309, 2.2.3; TDMRep has them too)
are compared as protego does it: what need not be escaped is not, and all else is (RFC 9309, 2.2.2).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from turbo_fetch.fetch.library_internals import quote_path, quote_pattern
from turbo_fetch.fetch.request import printable
from turbo_fetch.fetch.robots_lines import read_group
from turbo_fetch.redaction import redact

BYTES_PER_RULE: Final = 400
"""About what a rule takes in memory beside its text."""

_WILDCARDS: Final = re.compile(r"\*+")
_VERBATIM: Final = frozenset(string.ascii_letters + string.digits + "_.-~/=")
"""Characters that paths and patterns are compared with as they are; all others are compared escaped."""

_ESCAPED: Final = {chr(code): f"%{code:02X}" for code in range(128) if chr(code) not in {*_VERBATIM, "%"}}
_TO_ESCAPE: Final = re.compile(r"[^A-Za-z0-9_.~/=%-]")
_ODD_ESCAPE: Final = re.compile(
    "%(?!" + "|".join(f"{code:02X}" for code in range(128) if chr(code) not in _VERBATIM - {"/"}) + ")"
)
"""What is not in the form in which it is compared, or of which that is not easily said."""

T = TypeVar("T")


def comparable(path: str) -> str:
    """Return a path with its query in the form in which it is compared."""
    if ("%" in path and _ODD_ESCAPE.search(path)) or not path.isascii() or "#" in path:
        return quote_path(f"http://host{path}")
    # Nearly all that has to be escaped is one of these, and a regular expression takes twice as long.
    path = path.replace("?", "%3F").replace("&", "%26")
    return _TO_ESCAPE.sub(lambda found: _ESCAPED[found[0]], path) if _TO_ESCAPE.search(path) else path


class PathPattern:
    """A path with `*` for anything and `$` for the end; matches from the start of a path with its query.

    Matching is linear in the length of the path: each part is taken at its first place and never given back, for
    the first place is as good as any other.
    """

    __slots__ = ("_is_anchored", "_parts", "text")

    def __init__(self, text: str) -> None:
        self.text = quote_pattern(text) if text else ""
        self._is_anchored = self.text.endswith("$")
        self._parts = _WILDCARDS.split(self.text.removesuffix("$"))

    @property
    def weight(self) -> int:
        """How specific it is: of the patterns that match, the one with the most octets counts."""
        return len(self.text)

    @property
    def is_prefix(self) -> bool:
        """Whether it matches all paths that start with its text, and no other."""
        return len(self._parts) == 1 and not self._is_anchored

    def matches(self, path: str) -> bool:
        """Return whether a path matches, with its query and in the form of `comparable`."""
        first, *middle = self._parts
        if not path.startswith(first):
            return False
        if not middle:
            return not self._is_anchored or len(path) == len(first)
        at = len(first)
        last = middle.pop()
        for part in middle:
            at = path.find(part, at)
            if at < 0:
                return False
            at += len(part)
        return path.endswith(last, at) if self._is_anchored else path.find(last, at) >= 0


class PathRules(Generic[T]):
    """Patterns with what they say, from which the most specific ones that match are picked.

    Looking a path up costs a step per length of pattern without wildcards, however many there are, and a step per
    pattern with wildcards.
    """

    def __init__(self, rules: Iterable[tuple[str, T]]) -> None:
        self._prefixes: dict[str, list[T]] = {}
        self._others: list[tuple[PathPattern, T]] = []
        for text, said in rules:
            pattern = PathPattern(text)
            if pattern.is_prefix:
                self._prefixes.setdefault(pattern.text, []).append(said)
            else:
                self._others.append((pattern, said))
        self._lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)
        self._others.sort(key=lambda rule: -rule[0].weight)

    def __bool__(self) -> bool:
        return bool(self._prefixes or self._others)

    def said(self, path: str) -> list[T]:
        """Return what the most specific pattern says that matches; several if it is there several times."""
        path = comparable(path)
        weight, found = next(
            (
                (length, self._prefixes[path[:length]])
                for length in self._lengths
                if length <= len(path) and path[:length] in self._prefixes
            ),
            (-1, []),
        )
        for pattern, said in self._others:
            if pattern.weight < weight:
                break
            if pattern.matches(path):
                found = [*found, said] if pattern.weight == weight else [said]
                weight = pattern.weight
        return found


ROBOTS_TXT: Final = "/robots.txt"
MAX_BYTES: Final = 500 * 1024
"""What is read of a file at least, and here at most (RFC 9309, 2.5)."""

MAX_WILDCARDS: Final = 2_000
"""Wildcards in all rules, each of which is looked for in every path, beyond which a file is not weighed: its host
counts as one that does not want to be asked."""

MAX_WILDCARD_CHARACTERS: Final = 1_000_000
"""Wildcards in all rules times characters of a path, a few milliseconds' work, beyond which the path is not weighed."""

LONGEST_RULE_SHOWN: Final = 200

FEW_PATTERNS: Final = 200

_AS_IT_IS: Final = re.compile(r"%..|[^A-Za-z0-9_.~/=-]")


class Robots:
    """The rules of one host for one crawler.

    Built in time and memory linear in the text; a path is looked up in bounded time.
    """

    def __init__(self, text: str, token: str) -> None:
        group = read_group(text, token)
        self.crawl_delay_s = group.crawl_delay_s
        """Seconds that the host asks to leave between two requests."""
        rules = [(quote_pattern(pattern), allows) for pattern, allows in group.rules]
        usage = group.usage
        patterns = [pattern for pattern, _ in (*rules, *usage)]
        self._wildcards = sum(each.count("*") + each.endswith("$") for each in patterns)
        self.is_beyond_bounds = self._wildcards > MAX_WILDCARDS
        """Whether there are too many wildcards to be weighed."""
        if self.is_beyond_bounds:
            rules, usage, patterns = [], [], []
        self.memory_bytes = sum(BYTES_PER_RULE + 2 * len(pattern) for pattern in patterns)
        """About how much memory the rules take."""
        self._filter = _Filter({pattern for pattern, allows in rules if not allows})
        self._rules = PathRules((pattern, (pattern, allows)) for pattern, allows in rules)
        self._usage = PathRules(usage)

    @property
    def is_silent(self) -> bool:
        """Whether nothing is asked of us."""
        return not (self._usage or self.crawl_delay_s or self._filter or self.is_beyond_bounds)

    def refusal(self, path: str) -> str | None:
        """Return the rule that disallows a path with its query, None if it may be asked."""
        if self.is_beyond_bounds:
            return f"robots.txt: more than {MAX_WILDCARDS:,} wildcards"
        if self._wildcards * len(path) > MAX_WILDCARD_CHARACTERS:
            return f"robots.txt: {self._wildcards:,} wildcards are too many for so long a path"
        if not self._filter.may_match(path):
            return None
        said = self._rules.said(path)
        # Of equally specific rules the one that allows counts (RFC 9309, 2.2.2).
        return None if not said or any(allows for _, allows in said) else _told(said[0][0])

    def content_usage(self, path: str) -> list[str]:
        """Return the expressions of the Content-Usage rules for a path with its query."""
        return self._usage.said(path) if self._usage else []


class _Filter:
    """Tells nearly all paths that no pattern matches, in a fraction of the time that looking them up takes.

    A pattern that matches has parts that stand in the path as they are. Of very many patterns it tells nothing.
    """

    def __init__(self, patterns: set[str]) -> None:
        self._is_of_use = len(patterns) <= FEW_PATTERNS
        few = patterns if self._is_of_use else ()
        self._leads = tuple({_AS_IT_IS.split(pattern)[0] for pattern in few if "*" not in pattern})
        split = [_AS_IT_IS.split(pattern) for pattern in few if "*" in pattern]
        self._parts = tuple((parts[0], max(parts, key=len)) for parts in split)

    def __bool__(self) -> bool:
        return not self._is_of_use or bool(self._leads or self._parts)

    def may_match(self, path: str) -> bool:
        """Return whether a pattern may match a path with its query."""
        if not self._is_of_use or path.startswith(self._leads) or "%" in path:
            return bool(self)
        for lead, longest in self._parts:  # noqa: SIM110 - a generator would take twice as long
            if longest in path and path.startswith(lead):
                return True
        return False


def _told(pattern: str) -> str:
    return f"robots.txt: Disallow: {redact(printable(pattern[:LONGEST_RULE_SHOWN]))}"
