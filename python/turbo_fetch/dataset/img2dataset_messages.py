"""Failures in img2dataset's words, for what reads its `error_message`: pure functions.

img2dataset passes on the text of whatever exception Python raised. Where that text is the same for the same failure,
it is given here; elsewhere, and for failures that img2dataset does not know, the message is turbo-fetch's own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from turbo_fetch.outcomes import BY_NUMBER, Outcome

_BY_OUTCOME: Final[Mapping[Outcome, str]] = {
    Outcome.NOT_AN_IMAGE: "Image decoding error",
    Outcome.UNSUPPORTED: "Image decoding error",
    Outcome.CORRUPT: "Image decoding error",
    Outcome.STALLED: "timed out",
    Outcome.NO_SUCH_HOST: "<urlopen error [Errno -2] Name or service not known>",
    Outcome.DNS: "<urlopen error [Errno -3] Temporary failure in name resolution>",
    Outcome.HASH_MISMATCH: "hash mismatch",
}

_BY_DETAIL: Final[Mapping[str, str]] = {
    "connection closed before the response": "Remote end closed connection without response",
    **{
        os.strerror(number).lower(): f"<urlopen error [Errno {number}] {os.strerror(number)}>"
        for number in (
            errno.ECONNREFUSED,
            errno.ECONNRESET,
            errno.EHOSTUNREACH,
            errno.ENETUNREACH,
            errno.ETIMEDOUT,
        )
    },
}
_BODY_CUT: Final = "body ended early"
"""The detail of a body that is not whole; any other is of an image in a whole body, which ends early."""
_CERTIFICATE: Final = "certificate verify failed"


def img2dataset_messages(outcomes: pa.Array, messages: pa.Array) -> pa.StringArray:
    """Return the messages of rows with these outcome numbers in img2dataset's words."""
    rows = zip(outcomes.to_pylist(), messages.to_pylist(), strict=True)
    return pa.array([_message(BY_NUMBER[number], message) for number, message in rows], pa.string())


def _message(outcome: Outcome, message: str) -> str:
    if outcome is Outcome.TIMEOUT and not message.startswith("HTTP Error"):
        return "<urlopen error timed out>" if message.startswith("no connection") else "timed out"
    if outcome is Outcome.TRUNCATED and message != _BODY_CUT:
        return "Image decoding error"
    if outcome is Outcome.TLS and message.startswith(_CERTIFICATE):
        return f"<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] {message}>"
    return _BY_OUTCOME.get(outcome) or _BY_DETAIL.get(message, message)
