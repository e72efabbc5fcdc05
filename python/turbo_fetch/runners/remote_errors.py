"""Errors of other machines, which arrive as the tracebacks of several languages: the line that says what happened."""

from __future__ import annotations

import re
from typing import Final

_ERROR: Final = re.compile(r"(?:[A-Za-z_]+\()?[A-Za-z_.]*(?:Error|Exception|Interrupt)\)?: \S")
_WRAPPER: Final = re.compile(
    r"(?:ray\.[A-Za-z_.]+|[A-Za-z_.]*(?:Controller|WorkerGroup|Training)[A-Za-z]*Error)\b"
)
LONGEST: Final = 500


def cause_in(text: str) -> str:
    """Return the last line of a traceback that names an error, if possible not one that passes another on; else all."""
    lines = [line.strip() for line in text.splitlines()]
    named = [line for line in lines if _ERROR.match(line)]
    own = [line for line in named if not _WRAPPER.match(line)]
    return ((own or named)[-1] if named else " ".join(text.split()))[:LONGEST]
