"""The table of outcomes, from their enumeration."""

from __future__ import annotations

from turbo_fetch.outcomes import Outcome

INTRODUCTION = """\
# Outcomes

Every row of a list ends as exactly one of these. The ledger (`turbo-fetch ledger DATASET`) has the outcome of each row,
whether it is retryable, and a detail; the metadata (`NNNNN.parquet`) has img2dataset's `status` and, as
`error_message`, the detail.
Retryable failures may pass: they are tried again within a run (`fetch.http.retries`) and by `turbo-fetch retry`.

| Outcome | Meaning | Retryable | `status` | Number |
|---|---|---|---|---|
"""

MEANINGS = {
    Outcome.SUCCESS: "The picture is in the dataset.",
    Outcome.URL: "The address is malformed, or neither http nor https.",
    Outcome.ROBOTS: "The site's robots.txt does not allow it.",
    Outcome.OPT_OUT: "A header of the response forbids the use.",
    Outcome.DNS: "The name could not be looked up for now.",
    Outcome.NO_SUCH_HOST: "The host does not exist.",
    Outcome.ADDRESS: "The host is at an address that is not public, or at a port that is not allowed.",
    Outcome.CONNECT: "The connection was refused, or ended before the response.",
    Outcome.TLS: "The certificate is not trusted, or the handshake failed.",
    Outcome.TIMEOUT: "The time for a connection or for the whole request was over.",
    Outcome.STALLED: "The response paused for too long.",
    Outcome.PROTOCOL: "The response is not HTTP as it should be.",
    Outcome.REDIRECT: "Redirects end nowhere, go round in circles, or are too many.",
    Outcome.HTTP_4XX: "The server says that the request is wrong: not found, forbidden, gone.",
    Outcome.HTTP_5XX: "The server has a problem.",
    Outcome.RATE_LIMITED: "The server asks for fewer requests (429).",
    Outcome.TOO_LARGE: "The body is larger than `fetch.http.max_body_mb`.",
    Outcome.TRUNCATED: "The body ends early; or the picture in it does, and then the status is `failed_to_resize`.",
    Outcome.HASH_MISMATCH: "The bytes do not have the hash that the list names.",
    Outcome.DUPLICATE: "The same picture is there already.",
    Outcome.DENIED: "A deny list names it.",
    Outcome.NOT_AN_IMAGE: "The body is something else: a page, a text, nothing.",
    Outcome.UNSUPPORTED: "A picture in a format or variant that is not decoded.",
    Outcome.CORRUPT: "The bytes break the rules of their format.",
    Outcome.TOO_MANY_PIXELS: "More pixels than `fetch.image.max_pixels`.",
    Outcome.TOO_SMALL: "A side shorter than `fetch.image.min_side`.",
    Outcome.ASPECT: "Sides further apart than `fetch.image.max_aspect`.",
    Outcome.BAD_BOXES: "The boxes to make unrecognisable are malformed, so the picture is not kept.",
}


def outcomes_page() -> str:
    """Return the page."""
    return INTRODUCTION + "".join(f"{_row(outcome)}\n" for outcome in Outcome)


def _row(outcome: Outcome) -> str:
    retryable = "yes" if outcome.retryable else "no"
    meaning = MEANINGS[outcome]
    return (
        f"| `{outcome.label}` | {meaning} | {retryable} | `{outcome.img2dataset_status}` | {outcome.number} |"
    )
