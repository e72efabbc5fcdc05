"""Path patterns of robots.txt (RFC 9309, 2.2.3), which TDMRep and AIPREF use as well."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from typing import Generic, TypeVar

MAX_WILDCARDS = 32
"""A pattern with more is no pattern of a person; matching it could take long."""

T = TypeVar("T")


class PathPattern:
    """A path with `*` for anything and `$` for the end; matches from the start of a path with its query."""

    __slots__ = ("__dict__", "text")

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def weight(self) -> int:
        """How specific it is: of the patterns that match, the one with the most octets counts."""
        return len(self.text.encode("utf-8", "replace"))

    def matches(self, path: str) -> bool:
        """Return whether a path, with its query, matches."""
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
        found: list[T] = []
        weight = 0
        for pattern, said in self._rules:
            if found and pattern.weight < weight:
                break
            if pattern.matches(path):
                weight = pattern.weight
                found.append(said)
        return found
