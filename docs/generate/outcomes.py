"""The table of outcomes, from their enumeration."""

from __future__ import annotations

from turbo_fetch.outcomes import Outcome

INTRODUCTION = """\
# Outcomes

Every row of a list ends with exactly one of these. The ledger (`turbo-fetch ledger DATASET`) has the outcome of each
row, whether it is retryable, and a detail; the metadata (`NNNNN.parquet`) has img2dataset's `status` and, as
`error_message`, the detail.
Retryable failures may be temporary: they are retried within a run (`fetch.http.retries`) and by `turbo-fetch retry`.

| Outcome | Meaning | Retryable | `status` | Number |
|---|---|---|---|---|
"""

MEANINGS = {
    Outcome.SUCCESS: "The image is in the dataset.",
    Outcome.URL: "The URL is malformed, or neither http nor https.",
    Outcome.ROBOTS: "The site's robots.txt does not allow it.",
    Outcome.OPT_OUT: "The site opts out of this use, by a response header, robots.txt or tdmrep.json.",
    Outcome.DNS: "The host name could not be resolved, perhaps temporarily.",
    Outcome.NO_SUCH_HOST: "The host does not exist.",
    Outcome.ADDRESS: "The address of the host is not public, or the port is not allowed.",
    Outcome.CONNECT: "The connection was refused, or closed before the response.",
    Outcome.TLS: "The certificate is not trusted, or the handshake failed.",
    Outcome.TIMEOUT: "The connection or the whole request took too long.",
    Outcome.STALLED: "The response paused for too long.",
    Outcome.PROTOCOL: "The response is not valid HTTP.",
    Outcome.REDIRECT: "Redirects lead nowhere, form a loop, or exceed the limit.",
    Outcome.HTTP_4XX: "The server rejects the request: not found, forbidden, gone.",
    Outcome.HTTP_5XX: "The server reports an internal error.",
    Outcome.RATE_LIMITED: "The server asks for fewer requests (429).",
    Outcome.TOO_LARGE: "The body is larger than `fetch.http.max_body_mb`.",
    Outcome.TRUNCATED: "The body ends early; or the image in it does, with the status `failed_to_resize`.",
    Outcome.HASH_MISMATCH: "The bytes do not have the hash given in the list.",
    Outcome.DUPLICATE: "An earlier row has the same URL or image.",
    Outcome.DENIED: "The URL, its domain or the hash of the bytes is on a deny list.",
    Outcome.NOT_AN_IMAGE: "The body is something else: a web page, text, or empty.",
    Outcome.UNSUPPORTED: "An image in a format or variant that cannot be decoded.",
    Outcome.CORRUPT: "The bytes are not valid in their format.",
    Outcome.TOO_MANY_PIXELS: "More pixels than `fetch.image.max_pixels`.",
    Outcome.TOO_SMALL: "A side shorter than `fetch.image.min_side`.",
    Outcome.ASPECT: "An aspect ratio above `fetch.image.max_aspect`.",
    Outcome.BAD_BOXES: "The boxes to blur are malformed, so the image is not kept.",
    Outcome.OUT_OF_MEMORY: "This machine has too little memory for the image, even while it makes no other one.",
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
