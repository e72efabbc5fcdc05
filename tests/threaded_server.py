"""A server on loopback in a thread and loop of its own, so that the loop under test does not disturb it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from types import TracebackType
from typing import Any, Self


class ThreadedServer:
    """A context manager; a subclass says in `converse` what is done with a connection."""

    def __init__(self, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None, **options: Any) -> None:
        self.address = address
        self.port = 0
        self.connections = 0
        self.loop = asyncio.new_event_loop()
        self._options = {"ssl": tls, **options}
        self._started = threading.Event()
        self._startup_error: OSError | None = None
        self._stop = asyncio.Event()
        self._handlers: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    async def converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        """Serve one connection; `connection` is its number, from 1 on."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._startup_error is not None:
            raise self._startup_error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._serve())
        finally:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    async def _serve(self) -> None:
        try:
            server = await asyncio.start_server(self._connected, self.address, 0, **self._options)
        except OSError as error:
            self._startup_error = error
            self._started.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        handler = self.loop.create_task(self.converse(reader, writer, self.connections))
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)
