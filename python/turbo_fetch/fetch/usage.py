"""AI usage preferences (IETF AIPREF): what `Content-Usage` says, in a header or in a rule of robots.txt.

The expression is a dictionary of structured fields (RFC 9651): https://datatracker.ietf.org/doc/draft-ietf-aipref-vocab/
and https://datatracker.ietf.org/doc/draft-ietf-aipref-attach/. A use is forbidden by the token `n`, allowed by `y`;
anything else, and an expression that does not parse as a whole, says nothing.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 4096

_KEY: Final = r"[a-z*][a-z0-9_.*-]*"
_BARE: Final = (
    r"(?:\"(?:[ !#-\[\]-~]|\\[\"\\])*\"|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"
    r"|-?\d{1,15}(?:\.\d{1,3})?|:[A-Za-z0-9+/=]*:|\?[01]|@-?\d{1,15})"
)
_PARAMETERS: Final = rf"(?:; *{_KEY}(?:={_BARE})?)*"
_MEMBER: Final = re.compile(
    rf"(?P<key>{_KEY})(?:=(?P<value>{_BARE}|\([^()\"]*\)))?{_PARAMETERS}(?P<rest>[ \t]*,[ \t]*|[ \t]*$)"
)


def forbidden_use(expression: str, uses: frozenset[str]) -> str | None:
    """Return the first of `uses`, by name, that an expression forbids."""
    if not uses:
        return None
    said = _dictionary(expression)
    return next((use for use in sorted(uses) if said.get(use) == "n"), None)


def _dictionary(text: str) -> dict[str, str]:
    """Return keys with the text of their values, the last of each key; empty if the text is no dictionary."""
    text = text.strip(" ")
    said: dict[str, str] = {}
    position = 0
    while position < len(text) <= LONGEST:
        member = _MEMBER.match(text, position)
        if member is None:
            return {}
        said[member["key"]] = member["value"] or "?1"
        position = member.end()
        if "," in member["rest"] and position == len(text):
            return {}
    return said
