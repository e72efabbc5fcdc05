"""What is used of other libraries beyond what they document, in one place, for the day that a new version lacks it.

- aiohttp documents no way to use its connections without its client, to bound how many are kept, or to make them
  through a SOCKS proxy. `connections.py` and `socks.py` extend its connection and its connector in the methods and
  attributes that `AIOHTTP` names, and `session.py` hands it a request of its own to connect for.
- protego documents whether an address may be fetched, but not by which rule, which the ledger tells, nor how long that
  takes, which must be bounded. Paths and patterns are compared in its normal form.

tests/test_library_internals.py checks the installed versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from protego._utils import _quote_path as quote_path
from protego._utils import _quote_pattern as quote_pattern

__all__ = [
    "AIOHTTP",
    "Connection",
    "ConnectionKey",
    "HttpProcessingError",
    "ResponseHandler",
    "quote_path",
    "quote_pattern",
]

AIOHTTP: Final[Mapping[str, tuple[str, ...]]] = {
    "ResponseHandler": (
        "_loop",
        "_parser",
        "_pause_transport_reading",
        "_resume_transport_reading",
        "_should_close",
        "connection_lost",
        "data_received",
        "force_close",
        "is_connected",
        "pause_reading",
        "resume_reading",
        "should_close",
        "transport",
    ),
    "TCPConnector": (
        "_acquired",
        "_close",
        "_factory",
        "_get",
        "_loop",
        "_release",
        "_release_acquired",
        "_wrap_create_connection",
        "_wrap_existing_connection",
        "connect",
    ),
    "ClientRequest": ("connection_key",),
}
"""Members that are overridden or used in classes that extend them."""
