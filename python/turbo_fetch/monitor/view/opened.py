"""One dataset as the viewer has it open: looked at anew when a shard is committed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from turbo_fetch.dataset import names
from turbo_fetch.dataset.formats.images import image_type
from turbo_fetch.dataset.manifest import read_manifest
from turbo_fetch.dataset.reader import StoredDataset
from turbo_fetch.errors import InputError
from turbo_fetch.monitor.report.material import BROWSER_TYPES, thumbnails
from turbo_fetch.monitor.view.images import Images
from turbo_fetch.monitor.view.rows import Cursor, Rows
from turbo_fetch.storage import Storage

T = TypeVar("T")


class Opened:
    """Reads a dataset, of which there may be no shard yet; not for several threads at once."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.stored: StoredDataset | None = None
        """None while no shard is committed."""
        self._manifest_state: object = None
        self._rows: Rows | None = None
        self._pictures: Images | None = None
        self._summary: dict[str, Any] = {}

    def refreshed(self) -> dict[str, Any]:
        """Return what the dataset holds, looked at anew if its manifest has changed."""
        now = _fingerprint(self.storage)
        if now != self._manifest_state or not self._summary:
            self._manifest_state = now
            self._summary = {
                "path": self.storage.url,
                "format": None,
                "rows": 0,
                "shards": 0,
                "outcomes": {},
                "more_sizes": (),
            }
            # A run that goes on has no committed shard for a while.
            with contextlib.suppress(InputError):
                self.stored = StoredDataset.open(self.storage)
                self._rows, self._pictures = Rows(self.stored), Images(self.stored)
                self._summary |= _counts(self.storage, self.stored)
        return self._summary

    def read(self, read: Callable[[Rows], T], otherwise: T) -> T:
        """Return what is read of the rows as they are now; `otherwise` while no shard is committed."""
        self.refreshed()
        return otherwise if self._rows is None else read(self._rows)

    def shown(self, at: Cursor, small: bool, size: str = "") -> bytes | None:
        """Return the image of a row, in the size of a name, as a browser can show it, None if there is none."""
        self.refreshed()
        image = self._pictures.find(at, size) if self._pictures is not None else None
        if image is None:
            return None
        # Formats that browsers do not know are shown as thumbnails at any size.
        return thumbnails([image])[0] if small or image_type(image) not in BROWSER_TYPES else image


def _counts(storage: Storage, dataset: StoredDataset) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    for record in read_manifest(storage):
        outcomes.update(record["outcomes"])
    return {
        "format": dataset.format,
        "rows": sum(shard.rows for shard in dataset.shards),
        "shards": len(dataset.shards),
        "outcomes": dict(outcomes.most_common()),
        "more_sizes": dataset.more_sizes,
    }


def _fingerprint(storage: Storage) -> object:
    """Return what changes when a shard is committed; a remote dataset is looked at once."""
    manifest = storage.path and storage.path / names.MANIFEST
    if manifest is None or not manifest.exists():
        return None
    status = manifest.stat()
    return status.st_size, status.st_mtime_ns
