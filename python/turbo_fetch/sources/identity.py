"""What an image is known by before it is read: rows with the same identity are the same image, however it is written.

It is told from what the row says alone: no file is looked at, and no store is asked, so that it is the same on every
machine. A web address is the URL that is requested. A path is absolute and without `.`; `..` stays, since a link may
stand before it. An object has its address, whichever of its protocol's names it is by. A `data:` URL is its bytes. A
record of an archive that has no web address is its place, and an image in a column its text in the column of URLs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from turbo_fetch.arrow.schemas import RECORD
from turbo_fetch.plan.lists import image_folders
from turbo_fetch.plan.urls import MALFORMED_MARK, parse_urls
from turbo_fetch.spec import FetchSpec

SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_OTHER_NAMES: Final = {"s3a": "s3", "gcs": "gs"}
MAX_RECORD_BYTES: Final = 1 << 40
_MAIN: Final = re.compile(r"^((?:datasets/|spaces/)?[^/]+/[^/@]+)@main(?=/)")


class Identities:
    """Tells the identities of the rows of a job."""

    def __init__(self, fetch: FetchSpec) -> None:
        local = [folder for folder in image_folders(fetch.input) if "://" not in folder]
        self._roots = [Path(root).absolute() for root in (*fetch.sources.files, *local)]
        self._is_text = fetch.input.image_column is not None

    @property
    def rules(self) -> tuple[str, ...]:
        """What identities depend on besides the rows."""
        return (*map(str, self._roots), str(self._is_text))

    def unmatched(self, texts: Sequence[str]) -> Sequence[str]:
        """Return those of the texts that no image can be known by, for what they say is no address."""
        array = pa.array(texts, pa.string())
        known, requested = self.of(pa.table({"url": array})), parse_urls(array).normalised
        return [
            text
            for text, identity, url in zip(texts, known, requested, strict=True)
            if identity is None or (url is None and not self._is_text and self._is_nowhere(text, identity))
        ]

    def _is_nowhere(self, text: str, identity: str) -> bool:
        """Whether a text is a web address that cannot be requested, or a path below no folder."""
        match = SCHEME.match(text)
        is_of_web = match is not None and match[1].lower() in {"http", "https"}
        is_relative = identity.startswith("file:") and not identity.startswith("file:/")
        return is_of_web or (is_relative and not self._roots)

    def of(self, rows: pa.Table) -> list[str | None]:
        """Return the identity of each row, which has a `url` and maybe the place of a record; None if it has none."""
        texts = rows.column("url").combine_chunks()
        found = parse_urls(texts).normalised
        if RECORD[0] in rows.schema.names:
            records = zip(*(rows.column(name).to_pylist() for name in RECORD), strict=True)
            return [url or _record(record) for url, record in zip(found, records, strict=True)]
        for row in [row for row, url in enumerate(found) if url is None]:
            found[row] = self._elsewhere((texts[row].as_py() or "").strip())
        return found

    def _elsewhere(self, text: str) -> str | None:
        """Return the identity of a text that is no address of the web."""
        if not text or MALFORMED_MARK in text:
            return None
        if self._is_text:
            return text
        # With what requests need, which takes long and is not wanted for a list of web addresses.
        from turbo_fetch.fetch.failures import KnownFailure
        from turbo_fetch.sources.data_urls import decoded
        from turbo_fetch.sources.files import path_in

        match = SCHEME.match(text)
        scheme = "" if match is None else match[1].lower()
        try:
            if scheme == "data":
                return f"data:{hashlib.sha256(decoded(text)).hexdigest()}"
            if scheme in {"", "file"}:
                return self._file(path_in(text))
        except KnownFailure:
            return None
        protocol, _, rest = text.partition("://")
        name = _OTHER_NAMES.get(protocol.lower(), protocol.lower())
        if name == "hf":
            rest = _MAIN.sub(r"\1", rest)
        return f"{name}://{rest}" if rest else None

    def _file(self, path: Path) -> str:
        if not path.is_absolute() and len(self._roots) == 1:
            path = self._roots[0] / path
        # Two slashes at the beginning are one for Linux and macOS.
        return f"file:/{str(path).lstrip('/')}" if path.is_absolute() else f"file:{path}"


def _record(record: Sequence[str | None]) -> str | None:
    file, offset, length = record
    place = place_of(offset, length)
    return f"warc:{file} {place[0]}" if file and place is not None else None


def place_of(offset: str | None, length: str | None) -> tuple[int, int] | None:
    """Return the first byte of a record and the one after its last; None if that is not what the texts say."""
    try:
        start, count = int(float(offset or "")), int(float(length or ""))
    except (ValueError, OverflowError):
        return None
    return (start, start + count) if start >= 0 and 0 < count < MAX_RECORD_BYTES else None
