"""What must not be read by others: secrets in URLs and headers, and how they are shown instead.

A signed URL is a password for one object. The list itself is the user's data and is kept as it is; all that is
derived from it (redirects, final addresses, details, logs, reports, the spec as run) passes through here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "***"

_SECRET_PARAMETER: Final = re.compile(
    r"(?i)([?&;]"
    r"(?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|awsaccesskeyid|key-pair-id"
    r"|signature|sig|hmac|policy|(?:[a-z0-9_.-]*[_.-])?(?:token|secret|password|passwd|pwd)|(?:api|access|secret|private)[_-]?key"
    r"|[a-z]*token|key|auth|authorization|jwt|bearer|credentials?|session(?:_?id)?|sid)"
    r"=)[^&;#\s]+"
)
_USER_INFO: Final = re.compile(r"(?<=://)[^/?#@\s]*(?:@[^/?#@\s]*)*@")
_SECRET_HEADER: Final = re.compile(
    r"(?i)(proxy-)?authorization|cookie|.*(token|secret|password|signature|session|credential|api-?key|auth-key|access-key).*"
)


def redact(text: str) -> str:
    """Return text with the secrets of the URLs in it masked; text without any is returned as it is.

    Masked are user information and the values of query parameters that are known to sign or to authorise:
    those of S3, Google Cloud, Azure and CloudFront, tokens, keys, passwords and sessions.
    """
    if "@" in text:
        text = _USER_INFO.sub(f"{MASK}@", text)
    if "=" in text:
        text = _SECRET_PARAMETER.sub(rf"\1{MASK}", text)
    return text


def is_secret_header(name: str) -> bool:
    """Return whether a request header of this name carries a secret by its nature."""
    return _SECRET_HEADER.fullmatch(name) is not None


def redact_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers with the values of secret ones masked."""
    return {name: MASK if is_secret_header(name) else redact(value) for name, value in headers.items()}


def redact_tables(tables: Any) -> Any:
    """Return the tables of a dumped spec, or any part of them, with every secret masked."""
    if isinstance(tables, Mapping):
        return {
            name: redact_headers(value)
            if name == "headers" and isinstance(value, Mapping)
            else redact_tables(value)
            for name, value in tables.items()
        }
    if isinstance(tables, list | tuple):
        return [redact_tables(each) for each in tables]
    return redact(tables) if isinstance(tables, str) else tables
