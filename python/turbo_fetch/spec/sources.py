"""`[fetch.sources]` and `[fetch.input.warc]`: where the bytes of rows come from that no web server is asked for."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

from turbo_fetch.spec.numbers import Concurrency
from turbo_fetch.spec.table import Location, Table

_STORE: Final = re.compile(r"([a-z][a-z0-9+.-]*)://[^/\s]+(/\S*)?")
_NO_STORES: Final = frozenset({"file", "local", "data", "http", "https"})


def _folder(path: str) -> str:
    if "://" in path:
        raise ValueError(f"{path!r} is not a folder of this machine; expected a path, or the key `stores`")
    return path


def _store(prefix: str) -> str:
    match = _STORE.fullmatch(prefix)
    if match is None or match[1] in _NO_STORES or "::" in prefix:
        raise ValueError(
            f"{prefix!r} is not the beginning of addresses in a store; expected one such as s3://bucket/ or "
            "hf://datasets/owner/name/"
        )
    return prefix


def _prefix(prefix: str) -> str:
    if prefix and "://" not in prefix:
        return f"{prefix.rstrip('/')}/"
    if prefix and not prefix.endswith("/"):
        raise ValueError(
            f"{prefix!r} does not end in a slash; expected a URL or folder such as s3://commoncrawl/"
        )
    return prefix


class SourcesSpec(Table):
    """`[fetch.sources]`: which addresses of a list are read that are not of the web. Unless a key here says so,
    none but `data:` URLs: a list from elsewhere must not reach your files and buckets."""

    files: tuple[Annotated[Location, AfterValidator(_folder)], ...] = ()
    """Folders of this machine whose files a list may name, by path or as `file://` URLs. Relative paths are looked for
    in these folders, in order. What lies outside, also by `..` or a symbolic link, ends as `address`."""
    stores: tuple[Annotated[str, AfterValidator(_store)], ...] = ()
    """Beginnings of addresses in object stores that a list may name, such as `s3://bucket/photos/`, `gs://bucket/` or
    `hf://datasets/owner/name/`, read with the credentials of this machine; any protocol of fsspec."""
    data_urls: bool = True
    """Whether images inside of `data:` URLs (RFC 2397) are read."""
    concurrency: Concurrency = 32
    """Files and objects that are read at the same time, per worker."""


class WarcSpec(Table):
    """`[fetch.input.warc]`: the list refers to records of WARC files, as Common Crawl's index does. Each row is read
    from its record, not from its URL."""

    prefix: Annotated[Location, AfterValidator(_prefix)] = "https://data.commoncrawl.org/"
    """What stands before the file names of the list: a URL or a store in `fetch.sources.stores`, with its last slash,
    or a folder in `fetch.sources.files`."""
    file_column: str = "warc_filename"
    """Column of the names of WARC files."""
    offset_column: str = "warc_record_offset"
    """Column of the first byte of the record in its file."""
    length_column: str = "warc_record_length"
    """Column of the length of the compressed record, in bytes."""

    @property
    def columns(self) -> tuple[str, str, str]:
        """The columns, in the order file, offset, length."""
        return self.file_column, self.offset_column, self.length_column
