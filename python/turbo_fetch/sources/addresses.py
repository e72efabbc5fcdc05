"""Which source reads an address of a list that is not of the web, if the spec lets any."""

from __future__ import annotations

from typing import Final

from turbo_fetch.errors import PROTOCOL_EXTRAS
from turbo_fetch.fetch.failures import Failure
from turbo_fetch.outcomes import Outcome
from turbo_fetch.plan.lists import image_folders
from turbo_fetch.plan.urls import MALFORMED_MARK
from turbo_fetch.sources.data_urls import DataUrls, media_type
from turbo_fetch.sources.files import Files
from turbo_fetch.sources.identity import SCHEME
from turbo_fetch.sources.reading_pool import Reading
from turbo_fetch.sources.stores import Stores
from turbo_fetch.spec import FetchSpec

_WEB: Final = frozenset({"http", "https"})


class Sources:
    """The sources of a job, told apart by scheme; what has none is a path."""

    def __init__(self, fetch: FetchSpec) -> None:
        spec = fetch.sources
        folders = image_folders(fetch.input)
        local = [folder for folder in folders if "://" not in folder]
        self._files = Files((*spec.files, *local)) if spec.files or local else None
        self._stores = Stores((*spec.stores, *(folder for folder in folders if folder not in local)))
        self._data = DataUrls(int(fetch.http.max_body_mb * 1e6)) if spec.data_urls else None

    def reading(
        self, row: int, text: str | None, start: int = 0, stop: int | None = None
    ) -> Reading | Failure | None:
        """Return how a row is read that says `text`, or why it is not; None if that is no address of any source."""
        text = (text or "").strip()
        match = SCHEME.match(text)
        scheme = "" if match is None else match[1].lower()
        if not text or MALFORMED_MARK in text or scheme in _WEB:
            return None
        if scheme == "data":
            if self._data is None:
                return Outcome.ADDRESS, "data URLs are not read: fetch.sources.data_urls is false"
            return Reading(row, self._data, text, start, stop, media_type(text), is_shown=False)
        if scheme in {"", "file"}:
            if self._files is not None:
                return Reading(row, self._files, text, start, stop)
            return (
                (Outcome.ADDRESS, "files are not read: fetch.sources.files names no folder")
                if scheme
                else None
            )
        if scheme in self._stores.protocols:
            return Reading(row, self._stores, text, start, stop)
        if scheme in PROTOCOL_EXTRAS:
            return Outcome.ADDRESS, f"{scheme}:// is not read: fetch.sources.stores names nothing there"
        return None
