"""robots.txt by RFC 9309: what it says to one crawler about its host's paths.

Parsed by protego; what concerns other crawlers is dropped, for a run meets very many hosts. Content-Usage rules
are those of https://datatracker.ietf.org/doc/draft-ietf-aipref-attach/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from protego import Protego

from turbo_fetch.fetch.fetched import printable
from turbo_fetch.fetch.patterns import PathRules, comparable
from turbo_fetch.fetch.usage import forbidden_use
from turbo_fetch.redaction import redact

PATH: Final = "/robots.txt"
MAX_BYTES: Final = 500 * 1024
"""What is read of a file at least, and here at most (RFC 9309, 2.5)."""

LONGEST_RULE_SHOWN: Final = 200

_AS_IT_IS: Final = re.compile(r"%..|[^A-Za-z0-9_.~/=-]")


class Robots:
    """The rules of one host for one crawler."""

    def __init__(self, text: str, token: str) -> None:
        parser = Protego.parse(text)
        self.crawl_delay_s = parser.crawl_delay(token)
        """Seconds that the host asks to leave between two requests."""
        self._usage = PathRules(_usage_rules(text, token)) or None
        # Everything but our own group goes: the rest of the file is most of it.
        group = parser._get_matching_rule_set(token)
        self._rules = group._rules if group is not None else []
        disallowed = {rule.value._pattern for rule in self._rules if rule.field == "disallow"}
        self._leads = tuple({_AS_IT_IS.split(pattern)[0] for pattern in disallowed if "*" not in pattern})
        self._parts = tuple(_parts(pattern) for pattern in disallowed if "*" in pattern)
        parser._user_agents.clear()
        parser._url_patterns.clear()
        parser._sitemap_list.clear()

    @property
    def is_silent(self) -> bool:
        """Whether nothing is asked of us."""
        return not (self._usage or self.crawl_delay_s or self._leads or self._parts)

    def refusal(self, path: str) -> str | None:
        """Return the rule that disallows a path with its query, None if it may be asked."""
        if not self._may_refuse(path):
            return None
        quoted = comparable(path)
        # The most specific rule comes first, and of two that are equal the one that allows.
        for rule in self._rules:
            if rule.value.match(quoted):
                return None if rule.field == "allow" else _told(rule.value._pattern)
        return None

    def _may_refuse(self, path: str) -> bool:
        """Whether a rule must be looked at closely; one that matches has parts that stand in the path as they are."""
        if path.startswith(self._leads) or "%" in path:
            return True
        for lead, longest in self._parts:  # noqa: SIM110 - a generator would take twice as long
            if longest in path and path.startswith(lead):
                return True
        return False

    def forbidden_use(self, path: str, uses: frozenset[str]) -> str | None:
        """Return the first of `uses` that a Content-Usage rule forbids for a path with its query."""
        if self._usage is None:
            return None
        found = (forbidden_use(expression, uses) for expression in self._usage.said(path))
        return next((use for use in found if use is not None), None)


def _parts(pattern: str) -> tuple[str, str]:
    """Return the first and the longest part of a pattern that a path without escapes has as they are."""
    parts = _AS_IT_IS.split(pattern)
    return parts[0], max(parts, key=len)


def _told(pattern: str) -> str:
    return f"robots.txt: Disallow: {redact(printable(pattern[:LONGEST_RULE_SHOWN]))}"


def _usage_rules(text: str, token: str) -> Iterator[tuple[str, str]]:
    """Yield path and expression of the Content-Usage rules of our group, else of the group for all."""
    rules: dict[str, list[tuple[str, str]]] = {}
    agents: list[str] = []
    in_rules = False
    for line in text.splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or name == "sitemap":
            continue
        if name == "user-agent":
            agents = [value.lower()] if in_rules else [*agents, value.lower()]
            in_rules = False
            rules.setdefault(value.lower(), [])
            continue
        in_rules = True
        if name == "content-usage" and value:
            # Without a path, the rule is for all of them.
            path, _, expression = (
                value.replace("\t", " ").partition(" ") if value[0] == "/" else ("", "", value)
            )
            for agent in agents:
                rules[agent].append((path, expression.strip()))
    yield from rules[token] if token in rules else rules.get("*", [])
