"""Whether an image may be used: each signal by which its host or its response may forbid it.

Decided before the body is read. A new signal is a function of what carries it, here, and a line in :class:`Consent`.

- `X-Robots-Tag`: https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag#xrobotstag
- AI usage preferences (IETF AIPREF): `Content-Usage`, in a header or in a rule of robots.txt. The expression is a
  dictionary of structured fields (RFC 9651): https://datatracker.ietf.org/doc/draft-ietf-aipref-vocab/ and
  https://datatracker.ietf.org/doc/draft-ietf-aipref-attach/. A use is forbidden by the token `n`, allowed by `y`;
  anything else, and an expression that does not parse as a whole, says nothing.
- Reservations of text and data mining (TDMRep):
  https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240202/: a response says `tdm-reservation: 1` or `0`;
  where it is silent, the host's /.well-known/tdmrep.json counts, and of its rules the first that matches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from multidict import CIMultiDictProxy, istr

from turbo_fetch.fetch.robots import BYTES_PER_RULE, PathPattern, Robots, comparable
from turbo_fetch.spec import HttpSpec

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
    `googlebot: noindex`, does not concern us; `none` stands for noindex and nofollow.
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


LONGEST_EXPRESSION: Final = 4096

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
    while position < len(text) <= LONGEST_EXPRESSION:
        member = _MEMBER.match(text, position)
        if member is None:
            return {}
        said[member["key"]] = member["value"] or "?1"
        position = member.end()
        if "," in member["rest"] and position == len(text):
            return {}
    return said


TDMREP_JSON: Final = "/.well-known/tdmrep.json"
MAX_RESERVATIONS: Final = 1000


class Reservations:
    """What the file says of paths: `rules` in its order."""

    def __init__(self, rules: Iterable[tuple[str, bool]]) -> None:
        self._rules = [(PathPattern(location), is_reserved) for location, is_reserved in rules]
        self.memory_bytes = sum(BYTES_PER_RULE + 2 * len(pattern.text) for pattern, _ in self._rules)
        """About how much memory the rules take."""

    @property
    def is_silent(self) -> bool:
        """Whether nothing is said."""
        return not self._rules

    def reserve(self, path: str) -> bool:
        """Return whether the use of a path, with its query, is reserved."""
        path = comparable(path)
        return next((is_reserved for pattern, is_reserved in self._rules if pattern.matches(path)), False)


def header_reserves(value: str | None) -> bool | None:
    """Return what the header says, None if it says nothing."""
    return {"1": True, "0": False}.get(value.strip()) if value is not None else None


def parse_reservations(text: str) -> Reservations:
    """Read the file; what is not as the protocol says is passed over."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return Reservations(())
    entries = found if isinstance(found, list) else [found]
    return Reservations(
        (entry["location"], str(entry["tdm-reservation"]) == "1")
        for entry in entries[:MAX_RESERVATIONS]
        if isinstance(entry, dict)
        and isinstance(entry.get("location"), str)
        and str(entry.get("tdm-reservation")) in {"0", "1"}
    )


OPT_OUT_DETAIL: Final = "Use of image disallowed by X-Robots-Tag directive"
"""As img2dataset says it."""

_ROBOTS_TAG: Final = istr("X-Robots-Tag")
_CONTENT_USAGE: Final = istr("Content-Usage")
_RESERVATION: Final = istr("TDM-Reservation")


@dataclass(frozen=True, slots=True)
class HostRules:
    """What a host says of all its paths; None where it says nothing."""

    robots: Robots | None = None
    reservations: Reservations | None = None


SILENT: Final = HostRules()


@dataclass(frozen=True, slots=True)
class Consent:
    """Which signals forbid use, as the spec says."""

    directives: frozenset[str]
    uses: frozenset[str]
    obeys_tdm: bool
    token: str
    """The name by which robots.txt and headers may address us, in lower case."""

    @classmethod
    def of(cls, http: HttpSpec, user_agent: str) -> Self:
        """Return what the spec says."""
        return cls(
            frozenset(directive.lower() for directive in http.opt_out),
            frozenset(http.content_usage),
            http.tdm != "ignore",
            agent_token(user_agent),
        )

    def host_objects(self, robots: Robots, path: str) -> str | None:
        """Return why a host forbids the use of a path with its query, before it is asked for."""
        found = (forbidden_use(expression, self.uses) for expression in robots.content_usage(path))
        use = next((use for use in found if use is not None), None)
        return None if use is None else f"use reserved by Content-Usage: {use}=n in robots.txt"

    def response_objects(self, headers: CIMultiDictProxy[str], rules: HostRules, path: str) -> str | None:
        """Return why a response forbids the use of its path, or its host where the response is silent."""
        if _ROBOTS_TAG in headers and is_opted_out(headers.getall(_ROBOTS_TAG), self.directives, self.token):
            return OPT_OUT_DETAIL
        if self.uses and _CONTENT_USAGE in headers:
            use = forbidden_use(", ".join(headers.getall(_CONTENT_USAGE)), self.uses)
            if use is not None:
                return f"use reserved by Content-Usage: {use}=n"
        return self._tdm_objects(headers, rules, path) if self.obeys_tdm else None

    def _tdm_objects(self, headers: CIMultiDictProxy[str], rules: HostRules, path: str) -> str | None:
        reserved = header_reserves(headers.get(_RESERVATION))
        if reserved is not None:
            return "use reserved by tdm-reservation: 1" if reserved else None
        if rules.reservations is not None and rules.reservations.reserve(path):
            return "use reserved by /.well-known/tdmrep.json"
        return None
