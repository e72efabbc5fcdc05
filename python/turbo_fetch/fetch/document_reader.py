"""One document of a host, such as /robots.txt, as a request gets it."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Final

from turbo_fetch.fetch.codings import CodingError, Unpacker
from turbo_fetch.fetch.deadline import Deadline
from turbo_fetch.fetch.documents import LIFETIME_S, Document
from turbo_fetch.fetch.failures import Failure, status_failure
from turbo_fetch.fetch.origins import Origin
from turbo_fetch.fetch.redirects import drain, has_credentials, is_redirect, redirect_target
from turbo_fetch.fetch.response import Response
from turbo_fetch.fetch.retry_policy import retry_after_s
from turbo_fetch.fetch.robots import MAX_BYTES
from turbo_fetch.fetch.session import Session

MAX_REDIRECTS: Final = 5
"""RFC 9309, 2.3.1.2."""


async def read_document(
    address: str, session: Session, problem_of: Callable[[Origin], Failure | None], deadline: Deadline
) -> Document:
    """Return the document at an address, with up to five redirects; `problem_of` says where not to go."""
    for _ in range(MAX_REDIRECTS + 1):
        origin = session.origin(address)
        problem = problem_of(origin)
        if problem is not None:
            return Document(failure=problem)
        response = await session.get(origin, address, {"Accept": "*/*"})
        try:
            if is_redirect(response):
                onward = redirect_target(address, response)
                await drain(response)
                if onward is None or not onward.startswith(("http:", "https:")) or has_credentials(onward):
                    break
                address = onward
                continue
            if response.status == 429 or response.status >= 500:
                asked_s = retry_after_s(response.headers.get("Retry-After", ""), time()) or 0.0
                failure = status_failure(response.status, response.reason)
                return Document(response.status, failure=failure, lasts_s=min(asked_s, LIFETIME_S))
            if not 200 <= response.status < 300:
                await drain(response)
                return Document(response.status)
            deadline.progress()
            return Document(response.status, await _beginning(response, deadline))
        finally:
            response.close()
    # RFC 9309, 2.3.1.2 and 2.3.1.3: what redirects further is as good as not there.
    return Document(404)


async def _beginning(response: Response, deadline: Deadline) -> str:
    """Read as much of a document as counts."""
    content = response.body
    data = bytearray()
    while len(data) < MAX_BYTES and (chunk := await content.readany()):
        deadline.progress()
        data += chunk
    return _unpacked(bytes(data[:MAX_BYTES]), content.framing.codings).decode("utf-8-sig", "replace")


def _unpacked(data: bytes, codings: tuple[str, ...]) -> bytes:
    """Undo codings as far as counts, and as far as they are true: a document that is none of theirs is as it came."""
    unpacker = Unpacker(codings)
    result = bytearray()
    try:
        for piece in unpacker.decode(data, is_last=True):
            result += piece
            if len(result) >= MAX_BYTES:
                break
    except CodingError:
        return bytes(result) or data
    return bytes(result[:MAX_BYTES])
