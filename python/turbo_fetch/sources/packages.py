"""Whether what a spec opens can be read with the packages that are installed."""

from __future__ import annotations

from turbo_fetch.spec import FetchSpec


def check_sources(fetch: FetchSpec) -> None:
    """Raise MissingExtra or SpecError before a run if its sources cannot be read here."""
    # Most specs open none, and start without what sources need.
    if fetch.sources.stores:
        from turbo_fetch.sources.stores import Stores

        Stores(fetch.sources.stores).check()
    if fetch.input.warc is not None:
        from turbo_fetch.sources.archive_records import ArchiveRecords

        ArchiveRecords(fetch.http)
