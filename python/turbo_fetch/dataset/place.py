"""The place of an output, and the folder for what is in progress there."""

from __future__ import annotations

from pathlib import Path

from turbo_fetch.dataset import names
from turbo_fetch.dataset.lease import behind_lease
from turbo_fetch.errors import SpecError
from turbo_fetch.storage import Storage, cache_folder, open_storage, url_digest


def open_place(url: str, spool: str | None = None) -> Storage:
    """Return the place at `url`, without touching it; if this process has the lease on it, behind its fence.

    Its work folder is inside it if it is local, else in this user's caches; or in `spool`. Raises what
    :func:`open_storage` raises.
    """

    def work(url: str, path: Path | None) -> Path:
        return spool_folder(spool) / url_digest(url) if spool or path is None else path / names.FOLDER

    return behind_lease(open_storage(url, work))


def refuse_process_memory(storage: Storage) -> None:
    """Raise SpecError for a place that no other process sees, by whom a dataset is made."""
    if storage.url.partition(":")[0] == "memory":
        raise SpecError(
            f"{storage.url} is in the memory of one process, and a dataset is made by several; expected a folder or an "
            "object store"
        )


def spool_folder(spool: str | None) -> Path:
    """Return the folder for work in progress on many outputs: the one that a spec names, or a cache."""
    return Path(spool).absolute() if spool else cache_folder()
