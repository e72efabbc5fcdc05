"""A hash of its own content at the end of a JSON object, so that a changed bit is seen without a second copy.

Objects of earlier versions have none, and are taken as they are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

SEAL: Final = "sha256"
SEAL_BYTES: Final = 200
"""More than a seal has, with any space that people may have put in it."""
_SEAL: Final = re.compile(rb',\s*"sha256": ?"([^"]{64})"\s*\}\s*\Z')


def sealed(content: Mapping[str, Any]) -> bytes:
    """Return an object as one line of JSON that ends with the hash of all before."""
    return _with_seal(orjson.dumps(_unsealed(content)), b',"%s":"%s"}\n')


def sealed_for_people(content: Mapping[str, Any]) -> bytes:
    """Return the same over many lines."""
    return _with_seal(orjson.dumps(_unsealed(content), option=orjson.OPT_INDENT_2), b',\n  "%s": "%s"\n}')


def is_intact(content: bytes) -> bool:
    """Return whether an object has the content that it was sealed with, if it was."""
    # A line ends with it at once; to look for it in all of one takes as long as to parse it.
    found = _SEAL.search(content, max(0, len(content) - SEAL_BYTES))
    return found is None or _digest(content[: found.start()]) == found[1]


def _unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != SEAL}


def _with_seal(plain: bytes, end: bytes) -> bytes:
    head = plain[: plain.rindex(b"}")].rstrip()
    return head + end % (SEAL.encode(), _digest(head))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
