"""Path patterns of robots.txt (RFC 9309, 2.2.3), which TDMRep and AIPREF use as well.

Paths and patterns are compared as protego does it: what need not be escaped is not, and all else is (RFC 9309, 2.2.2).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from functools import cached_property
from typing import Final, Generic, TypeVar

from protego._utils import _quote_path, _quote_pattern

MAX_WILDCARDS = 32
"""A pattern with more is no pattern of a person; matching it could take long."""

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
    """A path with `*` for anything and `$` for the end; matches from the start of a path with its query."""

    __slots__ = ("__dict__", "text")

    def __init__(self, text: str) -> None:
        self.text = _quote_pattern(text) if text else ""

    @property
    def weight(self) -> int:
        """How specific it is: of the patterns that match, the one with the most octets counts."""
        return len(self.text.encode("utf-8", "replace"))

    def matches(self, path: str) -> bool:
        """Return whether a path matches, with its query and in the form of `comparable`."""
        if "*" not in self.text and "$" not in self.text:
            return path.startswith(self.text)
        return self._expression is not None and self._expression.match(path) is not None

    @cached_property
    def _expression(self) -> re.Pattern[str] | None:
        if self.text.count("*") > MAX_WILDCARDS:
            return None
        text, end = (self.text[:-1], "$") if self.text.endswith("$") else (self.text, "")
        # Each part is taken at its first place and never given back: the first place is as good as any other.
        *parts, last = re.sub(r"\*+", "*", text).split("*")
        if not parts:
            return re.compile(re.escape(last) + end)
        first, *middle = (re.escape(part) for part in parts)
        loose = "".join(f"(?>.*?{part})" for part in middle)
        return re.compile(f"{first}{loose}.*?{re.escape(last)}{end}", re.DOTALL)


class PathRules(Generic[T]):
    """Patterns with what they say, from which the most specific ones that match are picked."""

    def __init__(self, rules: Iterable[tuple[str, T]]) -> None:
        self._rules = sorted(
            ((PathPattern(text), said) for text, said in rules), key=lambda rule: -rule[0].weight
        )

    def __bool__(self) -> bool:
        return bool(self._rules)

    def said(self, path: str) -> list[T]:
        """Return what the most specific pattern says that matches; several if it is there several times."""
        path = comparable(path)
        found: list[T] = []
        weight = 0
        for pattern, said in self._rules:
            if found and pattern.weight < weight:
                break
            if pattern.matches(path):
                weight = pattern.weight
                found.append(said)
        return found
