"""Whether a picture may be used, from what its host and its response say; decided before the body is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from multidict import CIMultiDictProxy, istr

from turbo_fetch.fetch.opt_out import agent_token, is_opted_out
from turbo_fetch.fetch.robots import Robots
from turbo_fetch.fetch.tdm import Reservations, header_reserves
from turbo_fetch.fetch.usage import forbidden_use
from turbo_fetch.spec import HttpSpec

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
        use = robots.forbidden_use(path, self.uses)
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
