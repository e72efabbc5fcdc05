"""Images of a dataset by row: read in order from their shard, the latest ones remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import pyarrow as pa

from turbo_fetch.dataset.reader import StoredDataset
from turbo_fetch.monitor.view.rows import Cursor

REMEMBERED_BYTES: Final = 128 << 20


class Images:
    """Finds images; not for several threads at once.

    Shards are read from their start, since most formats know no other way; whoever pages on through a
    shard goes on where the last page ended.
    """

    def __init__(self, dataset: StoredDataset) -> None:
        self._dataset = dataset
        self._shard = -1
        self._row = 0
        self._batches: Iterator[pa.BinaryArray] = iter(())
        self._remembered: OrderedDict[Cursor, pa.BinaryArray] = OrderedDict()

    def find(self, at: Cursor) -> bytes | None:
        """Return the image of a row, None if it has none or there is no such row.

        Raises DatasetError if the shard is damaged.
        """
        if at.shard >= len(self._dataset.shards):
            return None
        found = self._recall(at)
        if found is None and (at.shard != self._shard or at.row < self._row):
            self._shard, self._row = at.shard, 0
            shard = self._dataset.shards[at.shard]
            self._batches = (batch.image for batch in self._dataset.batches(shard))
        while found is None:
            images = next(self._batches, None)
            if images is None:
                return None
            self._remember(Cursor(at.shard, self._row), images)
            self._row += len(images)
            found = self._recall(at)
        return found[0]

    def _recall(self, at: Cursor) -> tuple[bytes | None] | None:
        for start, images in reversed(self._remembered.items()):
            if start.shard == at.shard and start.row <= at.row < start.row + len(images):
                self._remembered.move_to_end(start)
                return (images[at.row - start.row].as_py(),)
        return None

    def _remember(self, start: Cursor, images: pa.BinaryArray) -> None:
        self._remembered[start] = images
        while (
            sum(one.nbytes for one in self._remembered.values()) > REMEMBERED_BYTES
            and len(self._remembered) > 1
        ):
            self._remembered.popitem(last=False)
