"""Reservations of text and data mining: the TDM Reservation Protocol (https://www.w3.org/community/reports/tdmrep/).

A response says `tdm-reservation: 1` or `0`; where it is silent, the host's /.well-known/tdmrep.json counts.
"""

from __future__ import annotations

import json
from typing import Final

from turbo_fetch.fetch.patterns import PathRules

PATH: Final = "/.well-known/tdmrep.json"
MAX_RULES: Final = 1000


def header_reserves(value: str | None) -> bool | None:
    """Return what the header says, None if it says nothing."""
    return {"1": True, "0": False}.get(value.strip()) if value is not None else None


def parse_reservations(text: str) -> PathRules[bool]:
    """Read the file; what is not as the protocol says is passed over."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return PathRules(())
    entries = found if isinstance(found, list) else [found]
    return PathRules(
        (entry["location"], str(entry["tdm-reservation"]) == "1")
        for entry in entries[:MAX_RULES]
        if isinstance(entry, dict)
        and isinstance(entry.get("location"), str)
        and str(entry.get("tdm-reservation")) in {"0", "1"}
    )
