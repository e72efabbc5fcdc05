"""A small object store that keeps connections, as S3 does and moto does not: `python bench/object_store.py [SHARDS]`.

It prints its address. What it knows is what a driver asks for: objects of one bucket, copies, conditions, lists. The
number of requests so far is at `/requests`.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

MOST_LISTED = 1000


class Store:
    """Objects by their key, with the bucket in front."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests = 0
        self._names: list[str] = []
        self._listed = 0

    def fill(self, shards: int) -> None:
        """Put the files of so many shards into `data/set`, without anything in them."""
        for shard in range(shards):
            name = f"{shard:05d}"
            for file in (
                f"{name}.tar",
                f"{name}.parquet",
                f"{name}_stats.json",
                f".turbo-fetch/ledger/{name}.ledger",
            ):
                self.objects[f"data/set/{file}"] = b"{}"

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request."""
        key = request.path.lstrip("/")
        if key == "requests":
            return web.Response(text=str(self.requests))
        self.requests += 1
        if request.method == "PUT":
            return await self._put(request, key)
        if request.method == "POST" and "delete" in request.query:
            for part in (await request.text()).split("<Key>")[1:]:
                self.objects.pop(f"{key.rstrip('/')}/{part.partition('</Key>')[0]}", None)
            return _xml("<DeleteResult/>")
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return web.Response(status=204)
        if "list-type" in request.query:
            return self._list(key.rstrip("/"), request.query.get("prefix", ""), request.query)
        content = self.objects.get(key)
        if content is None:
            return web.Response(status=404)
        headers = {"ETag": _tag(content), "Last-Modified": "Sun, 29 Nov 2026 00:00:00 GMT"}
        return web.Response(body=content, headers=headers)

    async def _put(self, request: web.Request, key: str) -> web.Response:
        now, source = self.objects.get(key), request.headers.get("x-amz-copy-source")
        wanted = request.headers.get("If-Match")
        if (now is not None and request.headers.get("If-None-Match") == "*") or (
            wanted is not None and (now is None or wanted != _tag(now))
        ):
            return _xml("<Error><Code>PreconditionFailed</Code></Error>", 412)
        content = await _body(request) if source is None else self.objects.get(unquote(source).lstrip("/"))
        if content is None:
            return _xml("<Error><Code>NoSuchKey</Code></Error>", 404)
        self.objects[key] = content
        if source is None:
            return web.Response(headers={"ETag": _tag(content)})
        return _xml(f"<CopyObjectResult><ETag>{escape(_tag(content))}</ETag></CopyObjectResult>")

    def _list(self, bucket: str, prefix: str, query: Mapping[str, str]) -> web.Response:
        """Answer with a page of names: those directly in a folder, as the driver asks for them."""
        if self._listed != len(self.objects):
            self._names, self._listed = sorted(self.objects), len(self.objects)
        whole = f"{bucket}/{prefix}"
        after = query.get("start-after")
        token = query.get("continuation-token") or (after and f"{bucket}/{after}") or ""
        place = max(bisect_right(self._names, token), bisect_left(self._names, whole))
        contents, folders, last = [], [], ""
        while (
            place < len(self._names) and len(contents) < MOST_LISTED and self._names[place].startswith(whole)
        ):
            name = self._names[place]
            folder, slash, _ = name[len(whole) :].partition("/")
            if slash:
                folders.append(f"{prefix}{folder}/")
                last = f"{whole}{folder}/\uffff"
                place = bisect_right(self._names, last)
                continue
            content, last = self.objects[name], name
            contents.append(
                f"<Contents><Key>{escape(name.removeprefix(f'{bucket}/'))}</Key><Size>{len(content)}</Size>"
                f"<ETag>{escape(_tag(content))}</ETag><LastModified>2026-11-29T00:00:00.000Z</LastModified></Contents>"
            )
            place += 1
        is_cut = place < len(self._names) and self._names[place].startswith(whole)
        shared = "".join(
            f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in folders
        )
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if is_cut else ""
        return _xml(
            f"<ListBucketResult><IsTruncated>{str(is_cut).lower()}</IsTruncated>{token}{''.join(contents)}{shared}"
            "</ListBucketResult>"
        )


@contextmanager
def keeping_store(shards: int = 0) -> Iterator[str]:
    """Run the store in a process of its own, with the files of so many shards; yield its address."""
    command = [sys.executable, str(Path(__file__)), str(shards)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.communicate()


async def _body(request: web.Request) -> bytes:
    """Return the body, which comes in chunks with their sizes and a trailer where it is signed as a stream."""
    left = await request.read()
    if "aws-chunked" not in request.headers.get("Content-Encoding", ""):
        return left
    content = b""
    while True:
        head, _, left = left.partition(b"\r\n")
        size = int(head.partition(b";")[0], 16)
        if not size:
            return content
        content, left = content + left[:size], left[size + 2 :]


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _xml(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="application/xml")


async def main() -> None:
    """Serve until killed."""
    store = Store()
    store.fill(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    application = web.Application(client_max_size=2**30)
    application.router.add_route("*", "/{key:.*}", store.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
