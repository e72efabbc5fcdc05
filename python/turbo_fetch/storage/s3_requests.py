"""Copies within a bucket, and lists of it, at a fraction of the processor time that the client's own calls take.

A driver makes four copies for every shard, and lists millions of files when it resumes. The client makes and signs the
address of the request, so its endpoint, its credentials and its way to name buckets count; the request itself is sent
from here. Whatever is not plainly done is left to the client's own call, with its retries and its errors.

A list comes in pages of 1,000 names, one after the other. A long one is therefore read from many names on at once:
shards are numbers, so the first two digits part it.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import zip_longest
from operator import itemgetter
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote
from weakref import WeakKeyDictionary
from xml.etree import ElementTree

import aiohttp
from botocore.exceptions import BotoCoreError
from yarl import URL

VALID_S: Final = 300
WAIT_S: Final = 60.0
CLOSE_S: Final = 5.0
FAILURES: Final = 3
"""So many in a row, and the client makes all further copies: the way there needs what only it knows."""
_NO_ANSWER: Final = (aiohttp.ClientError, BotoCoreError, TimeoutError, OSError)
_HEADERS: Final = {"IfNoneMatch": "If-None-Match", "IfMatch": "If-Match"}
PAGES_AT_ONCE: Final = 16
_STARTS: Final = tuple(f"{number:02d}".encode() for number in range(100))


class _Refused(Exception):
    """A server that does not answer with the list that was asked for."""


_NO_LIST: Final = (*_NO_ANSWER, ElementTree.ParseError, _Refused)
Entries = list[tuple[bytes, int | None]]
"""Names in a folder with their sizes, None for a folder."""


class _Page(NamedTuple):
    entries: Entries
    """In the order of names; those of folders end with a slash."""
    token: str | None
    """For the next one."""


class S3Requests:
    """Makes requests for one client of S3."""

    def __init__(self, filesystem: Any) -> None:
        self._filesystem = filesystem
        self._failures = 0
        self._session: aiohttp.ClientSession | None = None
        # What these say is to go with every request; the client knows how.
        asked = (filesystem.s3_additional_kwargs, filesystem.req_kw, filesystem.config_kwargs.get("proxies"))
        self._is_plain = not any(asked) and "verify" not in filesystem.client_kwargs and not filesystem.anon

    def copy(self, bucket: str, key: str, goal: str, condition: Mapping[str, str]) -> bool:
        """Copy a file of the bucket, if the condition on `goal` holds; return whether it is done for certain."""
        if not self._is_plain or self._failures >= FAILURES:
            return False
        copying = self._copy(bucket, key, goal, condition)
        return asyncio.run_coroutine_threadsafe(copying, self._filesystem.loop).result()

    async def _copy(self, bucket: str, key: str, goal: str, condition: Mapping[str, str]) -> bool:
        await self._filesystem.set_session()
        client = await self._filesystem.get_s3(bucket)
        asked = {"Bucket": bucket, "Key": goal, "CopySource": {"Bucket": bucket, "Key": key}, **condition}
        headers = {_HEADERS[name]: value for name, value in condition.items()}
        headers["x-amz-copy-source"] = quote(f"{bucket}/{key}", safe="/~")
        try:
            url = await client.generate_presigned_url("copy_object", Params=asked, ExpiresIn=VALID_S)
            async with self._opened().put(URL(url, encoded=True), headers=headers) as answer:
                content = await answer.read()
        except _NO_ANSWER:
            self._failures += 1
            return False
        is_known = answer.status in {404, 409, 412}
        is_done = answer.status == 200 and _says_done(content)
        self._failures = 0 if is_done or is_known else self._failures + 1
        return is_done

    def list(self, bucket: str, prefix: str, take: Callable[[Entries], None]) -> bool:
        """Let what is directly in a folder be taken, in any order; return whether that was all of it.

        `prefix` is empty or ends with a slash. `take` is called in the thread of the client's loop.
        """
        if not self._is_plain:
            return False
        listing = self._list(bucket, prefix, take)
        try:
            asyncio.run_coroutine_threadsafe(listing, self._filesystem.loop).result()
        except ExceptionGroup as group:
            if group.split(_NO_LIST)[1] is not None:
                raise
            return False
        except _NO_LIST:
            return False
        return True

    async def _list(self, bucket: str, prefix: str, take: Callable[[Entries], None]) -> None:
        await self._filesystem.set_session()
        client = await self._filesystem.get_s3(bucket)
        folder = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
        page = await self._page(client, folder)
        take(_named(page.entries))
        if page.token is None:
            return
        last = max(name for name, _ in page.entries)
        starts = [last, *(start for start in _STARTS if start > last)]
        gate = asyncio.Semaphore(PAGES_AT_ONCE)

        async def read(start: bytes, end: bytes | None) -> None:
            after = {"StartAfter": prefix + start.decode(errors="surrogateescape")}
            async with gate:
                while True:
                    page = await self._page(client, {**folder, **after})
                    if page.entries and page.entries[0][0] < start:
                        # It does not know where to start.
                        raise _Refused
                    # A folder may come again after its own name.
                    inside = [
                        each for each in page.entries if start < each[0] and (end is None or each[0] <= end)
                    ]
                    take(_named(inside))
                    if page.token is None or (end is not None and page.entries[-1][0] > end):
                        return
                    after = {"ContinuationToken": page.token}

        async with asyncio.TaskGroup() as reading:
            for start, end in zip_longest(starts, starts[1:]):
                reading.create_task(read(start, end))

    async def _page(self, client: Any, asked: Mapping[str, str]) -> _Page:
        url = await client.generate_presigned_url("list_objects_v2", Params=asked, ExpiresIn=VALID_S)
        async with self._opened().get(URL(url, encoded=True)) as answer:
            content = await answer.read()
        if answer.status != 200:
            raise _Refused
        return _parsed(content, asked["Prefix"])

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            atexit.register(self._close)
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=WAIT_S),
                trust_env=True,
                skip_auto_headers=("Content-Type", "User-Agent"),
            )
        return self._session

    def _close(self) -> None:
        with suppress(TimeoutError):
            assert self._session is not None
            asyncio.run_coroutine_threadsafe(self._session.close(), self._filesystem.loop).result(CLOSE_S)


def requests_of(filesystem: Any) -> S3Requests:
    """Return what makes requests for a client; one client has one."""
    if filesystem not in _known:
        _known[filesystem] = S3Requests(filesystem)
    return _known[filesystem]


_known: Final[WeakKeyDictionary[Any, S3Requests]] = WeakKeyDictionary()


def _named(entries: Entries) -> Entries:
    return [(name.rstrip(b"/"), size) for name, size in entries]


def _parsed(content: bytes, prefix: str) -> _Page:
    """Return a page of a list, its names without the prefix."""
    root = ElementTree.fromstring(content)
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    is_quoted = root.findtext(f"{space}EncodingType") == "url"

    def name(item: ElementTree.Element, tag: str) -> bytes:
        text = item.findtext(f"{space}{tag}") or ""
        return (unquote(text) if is_quoted else text).removeprefix(prefix).encode()

    entries: Entries = [
        (name(item, "Key"), int(item.findtext(f"{space}Size") or 0))
        for item in root.iterfind(f"{space}Contents")
    ]
    entries += [(name(item, "Prefix"), None) for item in root.iterfind(f"{space}CommonPrefixes")]
    entries = sorted((entry for entry in entries if entry[0]), key=itemgetter(0))
    is_cut = root.findtext(f"{space}IsTruncated") == "true"
    return _Page(entries, root.findtext(f"{space}NextContinuationToken") if is_cut else None)


def _says_done(content: bytes) -> bool:
    """Return whether the answer to a copy is that: one that fails late has status 200 as well."""
    try:
        return ElementTree.fromstring(content).tag.rpartition("}")[2] == "CopyObjectResult"
    except ElementTree.ParseError:
        return False
