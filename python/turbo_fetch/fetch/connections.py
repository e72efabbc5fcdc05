"""Connections, kept for reuse in a bounded number.

An idle TLS connection holds about 270 KB, most of it the loop's read buffer. A list of many hosts would leave
one behind per row, and aiohttp forgets idle connections by age only.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection


class BoundedConnector(aiohttp.TCPConnector):
    """Keeps at most `max_connections` open, idle and busy ones together; the longest idle are closed first.

    Busy ones are never closed, so the bound holds as long as no more are busy. Extends two methods that
    aiohttp does not document, where connections become idle and busy; a test watches that they still do.
    """

    def __init__(self, *, max_connections: int, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._max_connections = max_connections
        self._idle: dict[ResponseHandler, None] = {}

    async def _get(self, key: ConnectionKey, traces: list[Any]) -> Connection | None:
        connection = await super()._get(key, traces)
        if connection is not None and connection.protocol is not None:
            self._idle.pop(connection.protocol, None)
        return connection

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        super()._release(key, protocol, should_close=should_close)
        if not protocol.is_connected():
            return
        self._idle[protocol] = None
        while self._idle and len(self._idle) + len(self._acquired) > self._max_connections:
            longest_idle = next(iter(self._idle))
            del self._idle[longest_idle]
            longest_idle.close()
