"""Runs the web server of `turbo-fetch view` until it is stopped."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from aiohttp import web

from turbo_fetch.errors import InputError
from turbo_fetch.monitor.view.server import ADDRESS, Viewer
from turbo_fetch.stop import stopping_signals
from turbo_fetch.storage import Storage


def serve(storages: Sequence[Storage], port: int, ready: Callable[[str], None]) -> None:
    """Serve a dataset, or two to be compared, until a signal asks to stop; `ready` is told the address.

    Raises InputError if the port is taken.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, port))
            listener.listen()
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used: {error.strerror}; expected a free port, or --port 0"
            ) from error
        asyncio.run(_serve(storages, listener, ready))


async def _serve(storages: Sequence[Storage], listener: socket.socket, ready: Callable[[str], None]) -> None:
    stopped = asyncio.Event()
    for number in stopping_signals():
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(Viewer(*storages).application(), access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, shutdown_timeout=1).start()
        ready(f"http://{ADDRESS}:{listener.getsockname()[1]}/")
        await stopped.wait()
    finally:
        await runner.cleanup()
