"""robots.txt by RFC 9309: what it says to one crawler about its host's paths.

Parsed by protego; what concerns other crawlers is dropped, for a run meets very many hosts. Content-Usage rules
are those of https://datatracker.ietf.org/doc/draft-ietf-aipref-attach/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from protego import Protego

from turbo_fetch.fetch.fetched import printable
from turbo_fetch.fetch.patterns import BYTES_PER_RULE, PathRules
from turbo_fetch.fetch.usage import forbidden_use
from turbo_fetch.redaction import redact

PATH: Final = "/robots.txt"
MAX_BYTES: Final = 500 * 1024
"""What is read of a file at least, and here at most (RFC 9309, 2.5)."""

MAX_WILDCARDS: Final = 2_000
"""Wildcards in all rules, each of which is looked for in every path, beyond which a file is not weighed: its host
counts as one that does not want to be asked."""

LONGEST_RULE_SHOWN: Final = 200

FEW_PATTERNS: Final = 200

_AGENT_FIELDS: Final = frozenset({"user-agent", "useragent", "user agent"})
_AGENT_WITHOUT_COLON: Final = re.compile(
    r"(?:user-?agent|user\s+agent)(?:\s+(.*))?", re.IGNORECASE | re.DOTALL
)
_AS_IT_IS: Final = re.compile(r"%..|[^A-Za-z0-9_.~/=-]")
_OTHERS: Final = "all others"
"""Stands for the names of all other crawlers; a product token has no space."""


class Robots:
    """The rules of one host for one crawler.

    Built in time and memory linear in the text; a path is looked up in bounded time.
    """

    def __init__(self, text: str, token: str) -> None:
        lines = list(_without_other_names(text, token))
        parser = Protego.parse("\n".join(lines))
        self.crawl_delay_s = parser.crawl_delay(token)
        """Seconds that the host asks to leave between two requests."""
        group = parser._get_matching_rule_set(token)
        rules = [(rule.value._pattern, rule.field == "allow") for rule in (group._rules if group else ())]
        # Groups refer to the parser, which would keep it until the next collection of garbage.
        parser._user_agents.clear()
        parser._matched_rule_set.clear()
        usage = _usage_rules(lines)
        patterns = [pattern for pattern, _ in (*rules, *usage)]
        self.is_beyond_bounds = sum(each.count("*") + each.endswith("$") for each in patterns) > MAX_WILDCARDS
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
        if not self._filter.may_match(path):
            return None
        said = self._rules.said(path)
        # Of equally specific rules the one that allows counts (RFC 9309, 2.2.2).
        return None if not said or any(allows for _, allows in said) else _told(said[0][0])

    def forbidden_use(self, path: str, uses: frozenset[str]) -> str | None:
        """Return the first of `uses` that a Content-Usage rule forbids for a path with its query."""
        if not self._usage:
            return None
        found = (forbidden_use(expression, uses) for expression in self._usage.said(path))
        return next((use for use in found if use is not None), None)


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


def _without_other_names(text: str, token: str) -> Iterator[str]:
    """Yield the lines of a file, with one name for all crawlers that are not ours.

    A file may name thousands of crawlers before thousands of rules, each of which concerns each of them: that
    product must not be made.
    """
    # Where in the token a name may begin, as protego has it.
    starts = [
        at for at in range(len(token)) if at == 0 or not (token[at - 1].isalnum() or token[at - 1] in "-_")
    ]
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        name = _agent_name(line)
        if name is None:
            yield line
        elif name == "*" or any(token.startswith(name, at) for at in starts):
            yield f"User-agent: {name}"
        else:
            yield f"User-agent: {_OTHERS}"


def _agent_name(line: str) -> str | None:
    """Return the crawler that a line names, empty if none, and None if it is another line; as protego reads them."""
    if line[:4].lower() != "user":
        return None
    field, colon, value = line.partition(":")
    if not colon or field.strip().lower() not in _AGENT_FIELDS:
        named = _AGENT_WITHOUT_COLON.fullmatch(line)
        if named is None or (colon and not value[:1].strip()):
            return None
        value = named[1] or ""
    name = value.strip().lower()
    # Names have no wildcards; protego drops them.
    return name if name == "*" else name.replace("*", "")


def _usage_rules(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Return path and expression of the Content-Usage rules of our group, else of the group for all."""
    rules: dict[str, list[tuple[str, str]]] = {}
    agents: set[str] = set()
    in_rules = False
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon or name == "sitemap":
            continue
        if name == "user-agent":
            agents = {value} if in_rules else {*agents, value}
            in_rules = False
            rules.setdefault(value, [])
            continue
        in_rules = True
        if name == "content-usage" and value:
            # Without a path, the rule is for all of them.
            path, _, expression = (
                value.replace("\t", " ").partition(" ") if value[0] == "/" else ("", "", value)
            )
            for agent in agents - {_OTHERS}:
                rules[agent].append((path, expression.strip()))
    # The most specific name, as protego has it.
    ours = max(rules.keys() - {_OTHERS}, key=lambda agent: (agent != "*", len(agent)), default=None)
    return rules[ours] if ours is not None else []
