"""Images of a dataset by row: read in order from their shard, the latest ones remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from turbo_fetch.dataset.reader import StoredDataset
from turbo_fetch.dataset.samples import Images as Column
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
        self._batches: Iterator[dict[str, Column]] = iter(())
        self._remembered: OrderedDict[Cursor, dict[str, Column]] = OrderedDict()

    def find(self, at: Cursor, size: str = "") -> bytes | None:
        """Return the image of a row in the size of a name, None if it has none or there is no such row or size.

        Raises DatasetError if the shard is damaged.
        """
        if at.shard >= len(self._dataset.shards) or size not in ("", *self._dataset.more_sizes):
            return None
        found = self._recall(at, size)
        if found is None and (at.shard != self._shard or at.row < self._row):
            self._shard, self._row = at.shard, 0
            shard = self._dataset.shards[at.shard]
            self._batches = (batch.images for batch in self._dataset.batches(shard))
        while found is None:
            images = next(self._batches, None)
            if images is None:
                return None
            self._remember(Cursor(at.shard, self._row), images)
            self._row += len(images[""])
            found = self._recall(at, size)
        return found[0]

    def _recall(self, at: Cursor, size: str) -> tuple[bytes | None] | None:
        for start, images in reversed(self._remembered.items()):
            if start.shard == at.shard and start.row <= at.row < start.row + len(images[""]):
                self._remembered.move_to_end(start)
                return (images[size][at.row - start.row].as_py(),)
        return None

    def _remember(self, start: Cursor, images: dict[str, Column]) -> None:
        self._remembered[start] = images
        while len(self._remembered) > 1 and self._bytes() > REMEMBERED_BYTES:
            self._remembered.popitem(last=False)

    def _bytes(self) -> int:
        return sum(column.nbytes for images in self._remembered.values() for column in images.values())
