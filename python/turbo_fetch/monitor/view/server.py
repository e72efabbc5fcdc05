"""The web server of `turbo-fetch view`: loopback only, read only, and for pages that it served itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Any, Final, TypeVar

import orjson
from aiohttp import web

from turbo_fetch.dataset.formats.images import image_type
from turbo_fetch.errors import TurboFetchError
from turbo_fetch.monitor.report.document import plotly_script
from turbo_fetch.monitor.report.material import BROWSER_TYPES
from turbo_fetch.monitor.view import live
from turbo_fetch.monitor.view.comparison import Comparison
from turbo_fetch.monitor.view.opened import Opened
from turbo_fetch.monitor.view.pairs import BYS, SHOWS
from turbo_fetch.monitor.view.rows import Count, Cursor, Page, Query
from turbo_fetch.storage import Storage

ADDRESS: Final = "127.0.0.1"
PAGE_ROWS: Final = 60
MOST_ROWS: Final = 200
MOST_PAIRS: Final = 2**48
LARGEST_SIDE: Final = 2**31 - 1
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_CURSOR: Final = r"/{shard:\d{1,9}}/{row:\d{1,9}}"
_ASSETS: Final = {
    "/": ("view.html", "text/html"),
    "/view.js": ("view.js", "text/javascript"),
    "/comparison.js": ("comparison.js", "text/javascript"),
    "/parts.js": ("parts.js", "text/javascript"),
    "/view.css": ("view.css", "text/css"),
}


T = TypeVar("T")


class Viewer:
    """Answers what the page asks of one dataset, or of two beside each other.

    Files are read in one thread, so that readers need no locks.
    """

    def __init__(self, storage: Storage, other: Storage | None = None) -> None:
        self._reader = ThreadPoolExecutor(1, "reader")
        self._dataset = Opened(storage)
        self._comparison = None if other is None else Comparison(self._dataset, Opened(other))

    def application(self) -> web.Application:
        """Return the application that serves the page and what it asks for."""
        application = web.Application(middlewares=[_guard])
        for path in _ASSETS:
            application.router.add_get(path, self._asset)
        application.router.add_get("/plotly.min.js", self._plotly)
        application.router.add_get("/api/dataset", self._described)
        application.router.add_get("/api/live", self._live)
        application.router.add_get("/api/rows", self._page)
        application.router.add_get("/api/sample", self._sample)
        application.router.add_get("/api/count", self._count)
        application.router.add_get(f"/picture{_CURSOR}", partial(self._picture, self._dataset))
        if self._comparison is not None:
            application.router.add_get("/api/comparison", self._compared)
            application.router.add_get("/api/pairs", self._pairs)
            application.router.add_get(f"/other{_CURSOR}", partial(self._picture, self._comparison.other))
        return application

    async def _asset(self, request: web.Request) -> web.Response:
        name, kind = _ASSETS[request.path]
        if request.path == "/" and self._comparison is not None:
            name = "comparison.html"
        return web.Response(body=files(__package__).joinpath(name).read_bytes(), content_type=kind)

    async def _plotly(self, _: web.Request) -> web.Response:
        return web.Response(body=plotly_script(), content_type="text/javascript")

    async def _described(self, _: web.Request) -> web.Response:
        return await self._json(self._dataset.refreshed)

    async def _live(self, _: web.Request) -> web.Response:
        return await self._json(lambda: live.state(self._dataset.storage))

    async def _page(self, request: web.Request) -> web.Response:
        with _invalid():
            query, limit = _query(request), _limit(request)
            start = Cursor.parse(request.query.get("from") or "0:0")
        return await self._json(lambda: self._found(query, start, limit))

    async def _sample(self, request: web.Request) -> web.Response:
        with _invalid():
            query, limit, seed = _query(request), _limit(request), int(request.query.get("seed") or 0)
        none: list[dict[str, Any]] = []
        return await self._json(
            lambda: {"rows": self._dataset.read(lambda rows: rows.sample(query, seed, limit), none)}
        )

    async def _count(self, request: web.Request) -> web.Response:
        with _invalid():
            query, first = _query(request), max(0, int(request.query.get("from") or 0))
        count = await self._read(
            lambda: self._dataset.read(lambda rows: rows.count(query, first), Count(0, None))
        )
        return web.json_response(count._asdict())

    async def _compared(self, request: web.Request) -> web.Response:
        with _invalid():
            by = _choice(request, "by", BYS)
        assert self._comparison is not None
        return await self._json(partial(self._comparison.summary, by))

    async def _pairs(self, request: web.Request) -> web.Response:
        with _invalid():
            by, show, limit = _choice(request, "by", BYS), _choice(request, "show", SHOWS), _limit(request)
            start = min(MOST_PAIRS, max(0, int(request.query.get("from") or 0)))
        assert self._comparison is not None
        return await self._json(partial(self._comparison.page, by, show, start, limit))

    async def _picture(self, dataset: Opened, request: web.Request) -> web.Response:
        at = Cursor(int(request.match_info["shard"]), int(request.match_info["row"]))
        small, size = "small" in request.query, request.query.get("size", "")
        content = await self._read(lambda: dataset.shown(at, small, size))
        kind = BROWSER_TYPES.get(image_type(content or b"") or "")
        if content is None or kind is None:
            raise web.HTTPNotFound(text="no image")
        return web.Response(body=content, content_type=kind)

    def _found(self, query: Query, start: Cursor, limit: int) -> dict[str, Any]:
        page = self._dataset.read(lambda rows: rows.page(query, start, limit), Page([], None))
        return {"rows": page.rows, "next": None if page.next is None else str(page.next)}

    async def _json(self, work: Callable[[], Any]) -> web.Response:
        return web.Response(
            body=orjson.dumps(await self._read(work), default=_plain), content_type="application/json"
        )

    async def _read(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, work)
        except TurboFetchError as error:
            raise web.HTTPInternalServerError(text=str(error)) from error


@web.middleware
async def _guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answer only those who call this server by a name of loopback; a rebound name of a stranger is none."""
    host = request.headers.get("Host", "").rpartition(":")[0] or request.headers.get("Host", "")
    if host not in {ADDRESS, "localhost"}:
        raise web.HTTPForbidden(text="expected the address 127.0.0.1", headers=HEADERS)
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(HEADERS)
        raise
    response.headers.update(HEADERS)
    return response


@contextlib.contextmanager
def _invalid() -> Iterator[None]:
    """Answer a request that is not understood with its fault."""
    try:
        yield
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"invalid request: {error}") from error


def _query(request: web.Request) -> Query:
    asked = request.query
    # As large as columns of sides can be at most.
    side = max(0, min(LARGEST_SIDE, int(asked.get("min_side") or 0)))
    return Query(asked.get("outcome", ""), asked.get("text", ""), side)


def _choice(request: web.Request, name: str, choices: tuple[T, ...]) -> T:
    """Return one of the choices, by default the first."""
    asked = request.query.get(name) or choices[0]
    return choices[choices.index(asked)]


def _limit(request: web.Request) -> int:
    return min(MOST_ROWS, max(1, int(request.query.get("limit") or PAGE_ROWS)))


def _plain(value: object) -> object:
    """Return kept columns of types that JSON lacks as text; bytes are not shown."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
