"""robots.txt by RFC 9309: what it says to one crawler about its host's paths.

Parsed by protego; what concerns other crawlers is dropped, for a run meets very many hosts. Content-Usage rules
are those of https://datatracker.ietf.org/doc/draft-ietf-aipref-attach/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from protego import Protego
from protego._utils import _quote_path

from turbo_fetch.fetch.fetched import printable
from turbo_fetch.fetch.patterns import PathRules
from turbo_fetch.fetch.usage import forbidden_use
from turbo_fetch.redaction import redact

PATH: Final = "/robots.txt"
MAX_BYTES: Final = 500 * 1024
"""What is read of a file at least, and here at most (RFC 9309, 2.5)."""

LONGEST_RULE_SHOWN: Final = 200


class Robots:
    """The rules of one host for one crawler."""

    def __init__(self, text: str, token: str) -> None:
        parser = Protego.parse(text)
        self.crawl_delay_s = parser.crawl_delay(token)
        """Seconds that the host asks to leave between two requests."""
        self._usage = PathRules(_usage_rules(text, token))
        # Everything but our own group goes: the rest of the file is most of it.
        self._group = parser._get_matching_rule_set(token)
        parser._user_agents.clear()
        parser._url_patterns.clear()
        parser._sitemap_list.clear()

    @property
    def is_silent(self) -> bool:
        """Whether nothing is asked of us."""
        rules = self._group._rules if self._group is not None else ()
        return not (self._usage or self.crawl_delay_s or any(rule.field == "disallow" for rule in rules))

    def refusal(self, url: str) -> str | None:
        """Return the rule that disallows an address, None if it may be asked."""
        if self._group is None or self._group.can_fetch(url):
            return None
        quoted = _quote_path(url)
        longest = next(rule.value._pattern for rule in self._group._rules if rule.value.match(quoted))
        return f"robots.txt: Disallow: {redact(printable(longest[:LONGEST_RULE_SHOWN]))}"

    def forbidden_use(self, path: str, uses: frozenset[str]) -> str | None:
        """Return the first of `uses` that a Content-Usage rule forbids for a path with its query."""
        if not self._usage:
            return None
        found = (forbidden_use(expression, uses) for expression in self._usage.said(path))
        return next((use for use in found if use is not None), None)


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
        path, _, expression = value.replace("\t", " ").partition(" ")
        if name == "content-usage" and path.startswith("/") and expression.strip():
            for agent in agents:
                rules[agent].append((path, expression.strip()))
    yield from rules[token] if token in rules else rules.get("*", [])
