"""What must not be read by others: secrets in URLs and headers, and how they are shown instead.

A signed URL is a password for one object. The list itself is the user's data, and the `url` column of the samples
keeps it as it is; all else that tells of it (the ledger, details, redirects, logs, reports, web pages, the spec as run)
passes through here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Final

MASK: Final = "***"
_SHOWN_HEAD: Final = 100

_PARAMETER: Final = re.compile(
    r"[?&;#%](?:(?<=[?&;#])|(?<=%)(?:3[Ff]|26|3[Bb]|23))([\w.-]+)(?:=|%3[Dd])(?=[^&;#\s])"
)
"""Up to the value; also inside of an address that another one carries in its query, percent-encoded. The search jumps
to the characters with which it begins."""
_VALUE: Final = re.compile(r"[^&;#\s]+")
_SECRET_NAME: Final = re.compile(
    r"(?i)x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|awsaccesskeyid|key-pair-id"
    r"|signature|sig|hmac|policy|(?:[a-z0-9_.-]*[_.-])?(?:token|secret|password|passwd|pwd)|(?:api|access|secret|private)[_-]?key"
    r"|[a-z]*token|key|auth|authorization|jwt|bearer|credentials?|session(?:_?id)?|sid"
)
_USER_INFO: Final = re.compile(r"(?<=://)[^/?#@\s]*(?:@[^/?#@\s]*)*@")
_ENCODED_USER_INFO: Final = re.compile(r"(?i)(?<=%3A%2F%2F)(?:(?!%2F|%3F|%23|%40)[^/?#&\s])*%40")
_SECRET_HEADER: Final = re.compile(
    r"(?i)(proxy-)?authorization|cookie|.*(token|secret|password|signature|session|credential|api-?key|auth-key|access-key).*"
)


def redact(text: str) -> str:
    """Return text with the secrets of the URLs in it masked; text without any is returned as it is.

    Masked are user information and the values of query parameters that are known to sign or to authorise:
    those of S3, Google Cloud, Azure and CloudFront, tokens, keys, passwords and sessions; also in fragments, and in
    addresses that are part of another one's query.
    """
    if "@" in text:
        text = _USER_INFO.sub(f"{MASK}@", text)
    if "%40" in text:
        text = _ENCODED_USER_INFO.sub(f"{MASK}%40", text)
    if "=" in text or "%3" in text:
        text = _without_values(text)
    return text


def shown_url(url: str) -> str:
    """Return a URL of a list as others may see it: redacted, and without the contents of a `data:` URL."""
    if url[:16].lstrip()[:5].lower() == "data:":
        head, comma, _ = url.strip().partition(",")
        return f"{head[:_SHOWN_HEAD]}{comma}…"
    return redact(url)


def _without_values(text: str) -> str:
    """Return text with the values of secret parameters masked."""
    pieces: list[str] = []
    at = 0
    for parameter in _PARAMETER.finditer(text):
        if parameter.start() >= at and _is_secret_parameter(parameter[1]):
            pieces += text[at : parameter.end()], MASK
            value = _VALUE.match(text, parameter.end())
            at = parameter.end() if value is None else value.end()
    return "".join((*pieces, text[at:])) if pieces else text


# The parameters of a site are the same in all its addresses, and the match takes ten times as long as the search.
@lru_cache(maxsize=4096)
def _is_secret_parameter(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name) is not None


def is_secret_header(name: str) -> bool:
    """Return whether a request header of this name carries a secret by its nature."""
    return _SECRET_HEADER.fullmatch(name) is not None


def redact_headers(headers: Mapping[str, str], secret: Collection[str] = ()) -> dict[str, str]:
    """Return headers with the values masked of those that are secret by nature, or named in `secret`."""
    return {
        name: MASK if is_secret_header(name) or name.lower() in secret else redact(value)
        for name, value in headers.items()
    }


def redact_tables(tables: Any, secret: Collection[str] = ()) -> Any:
    """Return the tables of a dumped spec, or any part of them, with every secret masked.

    `secret` are names of headers, in lower case; those that a table names as `secret_headers` hold inside of it.
    """
    if isinstance(tables, Mapping):
        own = tables.get("secret_headers")
        if isinstance(own, list | tuple):
            secret = {*secret, *(str(name).lower() for name in own)}
        return {
            name: redact_headers(value, secret)
            if name == "headers" and isinstance(value, Mapping)
            else redact_tables(value, secret)
            for name, value in tables.items()
        }
    if isinstance(tables, list | tuple):
        return [redact_tables(each, secret) for each in tables]
    return redact(tables) if isinstance(tables, str) else tables
