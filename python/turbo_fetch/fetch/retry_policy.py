"""What to do after an attempt: pure decisions about retries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from turbo_fetch.causes import RULES_FAULT
from turbo_fetch.fetch.request import Fetched
from turbo_fetch.fetch.response_reader import EXCESSES
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

_LONGEST_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after a pause."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The attempt's outcome is the row's outcome in this run."""


def next_step(
    fetched: Fetched, attempts: int, http: HttpSpec, random_unit: float, now_s: float
) -> Retry | GiveUp:
    """Decide what follows an attempt, the `attempts`-th of its row.

    `random_unit` is uniform in [0, 1) and `now_s` the time since the epoch. Retry-After is a lower bound of
    the pause, and so is the time until the host may be asked for its rules again; a server that asks for more than
    `http.max_backoff_s` is not asked for this row again. Beyond that the pause is exponential with full jitter:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    detail = (fetched.detail or "").removeprefix(RULES_FAULT)
    if not fetched.outcome.retryable or attempts > http.retries or detail in EXCESSES:
        return GiveUp()
    jitter_s = random_unit * backoff_ceiling_s(attempts, http)
    asked_s = max(asked_pause_s(fetched, now_s) or 0.0, fetched.held_s)
    return GiveUp() if asked_s > http.max_backoff_s else Retry(min(asked_s + jitter_s, http.max_backoff_s))


def refusal_s(fetched: Fetched, now_s: float) -> float | None:
    """Return the pause in seconds that a refusal asks for, 0 if it names none, or None if it is no refusal.

    A refusal is an answer by which the server says that it gets too many requests; for want of the host's rules none
    was made.
    """
    if fetched.held_s:
        return None
    asked_s = asked_pause_s(fetched, now_s)
    if fetched.outcome is Outcome.RATE_LIMITED:
        return asked_s or 0.0
    return asked_s if fetched.outcome is Outcome.HTTP_5XX else None


def asked_pause_s(fetched: Fetched, now_s: float) -> float | None:
    """Return the pause in seconds that the last response asks for, or None if it asks for none."""
    return None if fetched.retry_after is None else retry_after_s(fetched.retry_after, now_s)


def backoff_ceiling_s(attempts: int, http: HttpSpec) -> float:
    """Return the longest pause after the given number of attempts, 1 or more."""
    return min(http.max_backoff_s, http.backoff_s * 2.0 ** (attempts - 1))


def retry_after_s(value: str, now_s: float) -> float | None:
    """Return the pause in seconds that a Retry-After header asks for, or None if it is malformed.

    Both forms of RFC 9110, 10.2.3: seconds, or an HTTP date; a date in the past asks for no pause.
    """
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= _LONGEST_DIGITS else math.inf
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now_s)
