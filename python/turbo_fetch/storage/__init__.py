"""Storage: a local folder, or a folder at any fsspec URL, into which whole files are published.

Names are relative to the folder, with `/` between folders. A reader of it never sees half a file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from turbo_fetch.errors import SpecError
from turbo_fetch.storage.filesystems import is_local, open_filesystem, path_of
from turbo_fetch.storage.interface import Entry, Listing, Storage, cache_folder, url_digest
from turbo_fetch.storage.local import LocalStorage
from turbo_fetch.storage.remote import RemoteStorage

__all__ = [
    "Entry",
    "Listing",
    "LocalStorage",
    "RemoteStorage",
    "Storage",
    "cache_folder",
    "open_storage",
    "url_digest",
]


def open_storage(url: str, work_of: Callable[[str, Path | None], Path]) -> Storage:
    """Return the storage at `url`, without touching it; `work_of` its URL and path is its work folder.

    Raises SpecError for an unknown protocol, MissingExtra for one whose package is not installed.
    """
    if (local := path_of(url)) is not None:
        return LocalStorage(local, work_of(str(local), local))
    if url.startswith("hf://datasets/"):
        from turbo_fetch.storage.hub import HubStorage

        return HubStorage(url.rstrip("/"), work_of(url.rstrip("/"), None))
    filesystem, path = open_filesystem(url, "Output to", SpecError)
    if is_local(filesystem):
        return LocalStorage(Path(path), work_of(path, Path(path)))
    return RemoteStorage(url.rstrip("/"), work_of(url.rstrip("/"), None), filesystem, path)
