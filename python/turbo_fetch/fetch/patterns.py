"""Path patterns of robots.txt (RFC 9309, 2.2.3), which TDMRep and AIPREF use as well.

Paths and patterns are compared as protego does it: what need not be escaped is not, and all else is (RFC 9309, 2.2.2).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from protego._utils import _quote_path, _quote_pattern

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
        return _quote_path(f"http://host{path}")
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
        self.text = _quote_pattern(text) if text else ""
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
                if path[:length] in self._prefixes
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
