"""Records of WARC files (ISO 28500): where the record of a row is, and the response that is archived in it."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
from multidict import CIMultiDict, CIMultiDictProxy

from turbo_fetch.arrow.binaries import Blob
from turbo_fetch.errors import MissingExtra
from turbo_fetch.fetch.consent import SILENT, Consent
from turbo_fetch.fetch.failures import Failure, status_failure, too_large
from turbo_fetch.fetch.request import Fetched, printable
from turbo_fetch.fetch.session import request_headers
from turbo_fetch.outcomes import Outcome
from turbo_fetch.plan.urls import parse_urls
from turbo_fetch.spec import HttpSpec

MAX_HEAD_BYTES: Final = 1_000_000
"""Of a record and of the response in it, besides the body."""

_GZIP: Final = b"\x1f\x8b"
_READ_BYTES: Final = 65_536


class ArchiveRecords:
    """Takes the responses out of records. Raises MissingExtra if the package for it is not installed."""

    def __init__(self, http: HttpSpec) -> None:
        try:
            from warcio.recordloader import ArcWarcRecordLoader
        except ImportError as error:
            raise MissingExtra("warcio", "warc", purpose="fetch.input.warc") from error
        self._loader: Any = ArcWarcRecordLoader()
        self._max_body_bytes = int(http.max_body_mb * 1e6)
        self._too_large = too_large(http.max_body_mb)
        self._consent = Consent.of(http, request_headers(http)["User-Agent"])

    def unpacked(self, fetched: Fetched, url: str | None) -> Fetched:
        """Return the end of a row whose body is a record as the end that the archived response makes of it. Blocks."""
        if fetched.body is None:
            return fetched
        record, failure = self._record(fetched.body, url)
        if failure is not None:
            return _failed(fetched, failure)
        head = record.http_headers
        if head is None:
            return self._with_body(fetched, record)
        status = head.get_statuscode()
        headers = CIMultiDictProxy(CIMultiDict([(name, printable(value)) for name, value in head.headers]))
        fetched = replace(
            fetched,
            http_status=int(status) if status.isdecimal() else None,
            content_type=headers.get("Content-Type"),
        )
        if fetched.http_status is None or not 200 <= fetched.http_status < 300:
            return _failed(fetched, status_failure(fetched.http_status or 0, head.statusline))
        objection = self._consent.response_objects(headers, SILENT, "")
        if objection is not None:
            return _failed(fetched, (Outcome.OPT_OUT, objection))
        return self._with_body(fetched, record)

    def _record(self, body: Blob, url: str | None) -> tuple[Any, Failure | None]:
        """Return the first record in some bytes, or why it is not the one of a row."""
        text, failure = self._unzipped(body)
        if failure is not None:
            return None, failure
        try:
            record = self._loader.parse_record_stream(io.BytesIO(text))
        # What is no record fails in the library in many ways.
        except Exception:
            return None, _no_record("not a WARC record")
        if record.rec_type not in {"response", "resource"}:
            return None, _no_record(f"a record of the type {printable(str(record.rec_type))[:40]}")
        truncated = record.rec_headers.get_header("WARC-Truncated")
        if truncated:
            return None, (Outcome.TRUNCATED, f"archived in part: {printable(truncated)[:40]}")
        if not _is_same(url, record.rec_headers.get_header("WARC-Target-URI")):
            return None, _no_record("a record of another URL")
        return record, None

    def _unzipped(self, body: Blob) -> tuple[Blob, Failure | None]:
        """Return the first member of a gzip file, within bounds; what is not compressed as it is."""
        if body[: len(_GZIP)] != _GZIP:
            return body, None
        unpacker = zlib.decompressobj(wbits=31)
        try:
            text = unpacker.decompress(body, self._max_body_bytes + MAX_HEAD_BYTES)
        except zlib.error:
            return b"", _no_record("not a WARC record")
        if unpacker.unconsumed_tail:
            return b"", self._too_large
        return text, None if unpacker.eof else _no_record("not a whole record")

    def _with_body(self, fetched: Fetched, record: Any) -> Fetched:
        stream = record.content_stream()
        parts: list[bytes] = []
        left = self._max_body_bytes
        while left >= 0 and (part := stream.read(_READ_BYTES)):
            parts.append(part)
            left -= len(part)
        return _failed(fetched, self._too_large) if left < 0 else replace(fetched, body=b"".join(parts))


def _is_same(listed: str | None, archived: str | None) -> bool:
    """Whether a record is of the URL of its row; rows without a usable one take what is there."""
    normalised = parse_urls(pa.array([listed, archived], pa.string())).normalised
    return normalised[0] is None or normalised[0] == normalised[1]


def _no_record(detail: str) -> Failure:
    return Outcome.NO_RECORD, detail


def _failed(fetched: Fetched, failure: Failure) -> Fetched:
    return replace(fetched, outcome=failure[0], detail=failure[1], body=None)
