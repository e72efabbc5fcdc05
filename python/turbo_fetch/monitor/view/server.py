"""The web server of `turbo-fetch view`: loopback only, read only, and for pages that it served itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any, Final, TypeVar

import orjson
from aiohttp import web

from turbo_fetch.dataset import names
from turbo_fetch.dataset.formats.images import image_type
from turbo_fetch.dataset.manifest import read_manifest
from turbo_fetch.dataset.reader import StoredDataset
from turbo_fetch.errors import InputError, TurboFetchError
from turbo_fetch.monitor.report.document import plotly_script
from turbo_fetch.monitor.report.material import BROWSER_TYPES, thumbnails
from turbo_fetch.monitor.view import live
from turbo_fetch.monitor.view.images import Images
from turbo_fetch.monitor.view.rows import Count, Cursor, Page, Query, Rows
from turbo_fetch.storage import Storage

ADDRESS: Final = "127.0.0.1"
PAGE_ROWS: Final = 60
MOST_ROWS: Final = 200
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
_ASSETS: Final = {
    "/": ("view.html", "text/html"),
    "/view.js": ("view.js", "text/javascript"),
    "/view.css": ("view.css", "text/css"),
}


T = TypeVar("T")


class Viewer:
    """Answers what the page asks. Files are read in one thread, so that readers need no locks."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._reader = ThreadPoolExecutor(1, "reader")
        self._manifest_state: object = None
        self._rows: Rows | None = None
        self._pictures: Images | None = None
        self._summary: dict[str, Any] = {}

    def application(self) -> web.Application:
        """Return the application that serves the page and what it asks for."""
        application = web.Application(middlewares=[_guard])
        for path in _ASSETS:
            application.router.add_get(path, self._asset)
        application.router.add_get("/plotly.min.js", self._plotly)
        application.router.add_get("/api/dataset", self._dataset)
        application.router.add_get("/api/live", self._live)
        application.router.add_get("/api/rows", self._page)
        application.router.add_get("/api/sample", self._sample)
        application.router.add_get("/api/count", self._count)
        application.router.add_get(r"/picture/{shard:\d{1,9}}/{row:\d{1,9}}", self._picture)
        return application

    async def _asset(self, request: web.Request) -> web.Response:
        name, kind = _ASSETS[request.path]
        return web.Response(body=files(__package__).joinpath(name).read_bytes(), content_type=kind)

    async def _plotly(self, _: web.Request) -> web.Response:
        return web.Response(body=plotly_script(), content_type="text/javascript")

    async def _dataset(self, _: web.Request) -> web.Response:
        return await self._json(self._refreshed)

    async def _live(self, _: web.Request) -> web.Response:
        return await self._json(lambda: live.state(self._storage))

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
            lambda: {"rows": self._opened(lambda rows: rows.sample(query, seed, limit), none)}
        )

    async def _count(self, request: web.Request) -> web.Response:
        with _invalid():
            query, first = _query(request), max(0, int(request.query.get("from") or 0))
        count = await self._read(lambda: self._opened(lambda rows: rows.count(query, first), Count(0, None)))
        return web.json_response(count._asdict())

    async def _picture(self, request: web.Request) -> web.Response:
        at = Cursor(int(request.match_info["shard"]), int(request.match_info["row"]))
        small = "small" in request.query
        content = await self._read(lambda: self._shown(at, small))
        kind = BROWSER_TYPES.get(image_type(content or b"") or "")
        if content is None or kind is None:
            raise web.HTTPNotFound(text="no image")
        return web.Response(body=content, content_type=kind)

    def _refreshed(self) -> dict[str, Any]:
        """Return what the dataset holds, looked at anew if its manifest has changed."""
        now = _fingerprint(self._storage)
        if now != self._manifest_state or not self._summary:
            self._manifest_state = now
            self._summary = {
                "path": self._storage.url,
                "format": None,
                "rows": 0,
                "shards": 0,
                "outcomes": {},
            }
            # A run that goes on has no committed shard for a while.
            with contextlib.suppress(InputError):
                dataset = StoredDataset.open(self._storage)
                self._rows, self._pictures = Rows(dataset), Images(dataset)
                self._summary |= _counts(self._storage, dataset)
        return self._summary

    def _found(self, query: Query, start: Cursor, limit: int) -> dict[str, Any]:
        page = self._opened(lambda rows: rows.page(query, start, limit), Page([], None))
        return {"rows": page.rows, "next": None if page.next is None else str(page.next)}

    def _opened(self, read: Callable[[Rows], T], otherwise: T) -> T:
        """Return what is read of the rows as they are now; `otherwise` while no shard is committed."""
        self._refreshed()
        return otherwise if self._rows is None else read(self._rows)

    def _shown(self, at: Cursor, small: bool) -> bytes | None:
        self._refreshed()
        image = self._pictures.find(at) if self._pictures is not None else None
        if image is None:
            return None
        # Formats that browsers do not know are shown as thumbnails at any size.
        return thumbnails([image])[0] if small or image_type(image) not in BROWSER_TYPES else image

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


def _counts(storage: Storage, dataset: StoredDataset) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    for record in read_manifest(storage):
        outcomes.update(record["outcomes"])
    return {
        "format": dataset.format,
        "rows": sum(shard.rows for shard in dataset.shards),
        "shards": len(dataset.shards),
        "outcomes": dict(outcomes.most_common()),
    }


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


def _limit(request: web.Request) -> int:
    return min(MOST_ROWS, max(1, int(request.query.get("limit") or PAGE_ROWS)))


def _fingerprint(storage: Storage) -> object:
    """Return what changes when a shard is committed; a remote dataset is looked at once."""
    manifest = storage.path and storage.path / names.MANIFEST
    if manifest is None or not manifest.exists():
        return None
    status = manifest.stat()
    return status.st_size, status.st_mtime_ns


def _plain(value: object) -> object:
    """Return kept columns of types that JSON lacks as text; bytes are not shown."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
