"""Documents of hosts, /robots.txt and /.well-known/tdmrep.json: one worker of a run requests each, and all have it.

A worker asks the parent, which has the document, or says that the worker shall request it, or lets it wait for another
one that does: :mod:`turbo_fetch.runners.host_documents`, and :mod:`turbo_fetch.fetch.shared_documents` in the worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from turbo_fetch.outcomes import Outcome

LIFETIME_S: Final = 86_400.0
"""RFC 9309, 2.4: not to be used for longer than a day."""

FAILURE_S: Final = 1.0
"""How long a failure to get robots.txt holds at first; twice as long each time in a row."""

LONGEST_FAILURE_S: Final = 300.0
MOST_DOUBLINGS: Final = 16


@dataclass(frozen=True, slots=True)
class Document:
    """A response: `status` and the `text` of a 2xx, or the failure to get one, without a status if nobody answered."""

    status: int = 0
    text: str = ""
    failure: tuple[Outcome, str] | None = None
    lasts_s: float = 0.0
    """Seconds that a failure holds at least: what Retry-After asks for, or what is left of it."""


def failure_lasts_s(in_a_row: int, least_s: float = 0.0) -> float:
    """Return how long a failure holds that is one of so many in a row, and holds for `least_s`."""
    doublings = min(in_a_row - 1, MOST_DOUBLINGS)
    return max(least_s, min(LONGEST_FAILURE_S, FAILURE_S * 2.0**doublings))


@dataclass(slots=True)
class DocumentNews:
    """Worker → parent: which documents it needs, by address, and what became of those that it was to request."""

    wanted: list[str] = field(default_factory=list)
    found: dict[str, Document] = field(default_factory=dict)


@dataclass(slots=True)
class DocumentAnswers:
    """Parent → worker: documents that it needs, and those that it is to request itself."""

    found: dict[str, Document] = field(default_factory=dict)
    to_request: list[str] = field(default_factory=list)
