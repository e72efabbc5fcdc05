"""Whether X-Robots-Tag headers forbid the use of a picture."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_AGENT: Final = re.compile(r"([A-Za-z][\w.*-]*|\*)\s*:(.*)", re.DOTALL)
_VALUED_DIRECTIVES: Final = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
)
_NONE: Final = ("noindex", "nofollow")


def agent_token(user_agent: str) -> str:
    """Return the product token of a User-Agent, in lower case, by which directives may address us."""
    return user_agent.partition("/")[0].split(" ")[0].strip().lower()


def is_opted_out(headers: Iterable[str], forbidding: frozenset[str], token: str) -> bool:
    """Return whether any header value forbids use.

    `forbidding` holds directives in lower case. A directive behind another agent's name, such as
    `googlebot: noindex`, does not concern us; `none` stands for noindex and nofollow. The syntax is that of
    https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag#xrobotstag
    """
    return any(not forbidding.isdisjoint(_directives_for(value, token)) for value in headers)


def _directives_for(value: str, token: str) -> list[str]:
    """Return the directives of one header value that concern the agent `token`."""
    directives: list[str] = []
    concerns_us = True
    for part in value.split(","):
        directive = part.strip()
        named = _AGENT.fullmatch(directive)
        if named and named[1].lower() not in _VALUED_DIRECTIVES:
            concerns_us = named[1].lower() in {token, "*"}
            directive = named[2].strip()
        if concerns_us:
            name = directive.lower()
            directives += _NONE if name == "none" else (name,)
    return directives
