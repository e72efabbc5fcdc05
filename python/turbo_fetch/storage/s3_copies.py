"""Copies within a bucket at a third of the processor time that the client's own call takes.

A driver makes four of them for every shard. The client makes and signs the address of the request, so its endpoint,
its credentials and its way to name buckets count; the request itself is sent from here. Whatever is not plainly done is
left to the client's own call, with its retries and its errors.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote
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
_HEADERS: Final = {"IfNoneMatch": "If-None-Match", "IfMatch": "If-Match"}


class S3Copies:
    """Copies files for one client of S3."""

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
        except (aiohttp.ClientError, BotoCoreError, TimeoutError, OSError):
            self._failures += 1
            return False
        is_known = answer.status in {404, 409, 412}
        is_done = answer.status == 200 and _says_done(content)
        self._failures = 0 if is_done or is_known else self._failures + 1
        return is_done

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


def copies_of(filesystem: Any) -> S3Copies:
    """Return what copies for a client; one client has one."""
    if filesystem not in _known:
        _known[filesystem] = S3Copies(filesystem)
    return _known[filesystem]


_known: Final[WeakKeyDictionary[Any, S3Copies]] = WeakKeyDictionary()


def _says_done(content: bytes) -> bool:
    """Return whether the answer to a copy is that: one that fails late has status 200 as well."""
    try:
        return ElementTree.fromstring(content).tag.rpartition("}")[2] == "CopyObjectResult"
    except ElementTree.ParseError:
        return False
