"""What would change an outcome: a command, or keys of the spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from turbo_fetch.outcomes import Outcome

RETRY: Final = "turbo-fetch retry"
KEYS: Final[Mapping[Outcome, tuple[str, ...]]] = {
    Outcome.URL: ("fetch.input.url_column",),
    Outcome.ROBOTS: ("fetch.http.robots",),
    Outcome.OPT_OUT: ("fetch.http.opt_out", "fetch.http.content_usage", "fetch.http.tdm"),
    Outcome.ADDRESS: ("fetch.http.allow_private_addresses", "fetch.http.ports", "fetch.sources"),
    Outcome.TLS: ("fetch.http.ca_file", "fetch.http.verify_tls"),
    Outcome.TIMEOUT: ("fetch.http.timeout_s",),
    Outcome.STALLED: ("fetch.http.stall_timeout_s",),
    Outcome.REDIRECT: ("fetch.http.max_redirects",),
    Outcome.RATE_LIMITED: ("fetch.http.per_domain",),
    Outcome.TOO_LARGE: ("fetch.http.max_body_mb",),
    Outcome.HASH_MISMATCH: ("fetch.input.hash_column",),
    Outcome.DUPLICATE: ("fetch.duplicates.by",),
    Outcome.DENIED: ("fetch.deny",),
    Outcome.TOO_MANY_PIXELS: ("fetch.image.max_pixels",),
    Outcome.TOO_SMALL: ("fetch.image.min_side",),
    Outcome.ASPECT: ("fetch.image.max_aspect",),
    Outcome.BAD_BOXES: ("fetch.input.boxes_column",),
    Outcome.FILTERED: ("fetch.score.where",),
    Outcome.UNSCORED: ("fetch.score.function",),
}
"""The keys that decide whether a row has this outcome."""


def remedies(outcome: Outcome, place: str) -> list[str]:
    """Return what may help, as a user writes it: the command that retries the dataset at `place`, then keys."""
    again = [f"{RETRY} {place}"] if outcome.retryable else []
    return [*again, *KEYS.get(outcome, ())]
