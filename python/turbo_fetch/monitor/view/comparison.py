"""Two datasets that are looked at beside each other."""

from __future__ import annotations

from typing import Any

from turbo_fetch.dataset.reader import StoredDataset
from turbo_fetch.monitor.view.opened import Opened
from turbo_fetch.monitor.view.pairs import By, Pairs, Show
from turbo_fetch.monitor.view.rows import Cursor


class Comparison:
    """Answers what is asked of two datasets; not for several threads at once."""

    def __init__(self, dataset: Opened, other: Opened) -> None:
        self.dataset = dataset
        self.other = other
        self._pairs: dict[By, tuple[StoredDataset, StoredDataset, Pairs]] = {}

    def summary(self, by: By) -> dict[str, Any]:
        """Return what both hold, how many rows differ, and how outcomes do. Raises DatasetError."""
        datasets = [self.dataset.refreshed(), self.other.refreshed()]
        pairs = self._paired(by)
        return {"datasets": datasets, **({} if pairs is None else pairs.summary)}

    def page(self, by: By, show: Show, start: int, limit: int) -> dict[str, Any]:
        """Return pairs of rows from the `start`-th of their kind on, None for one that is not there."""
        pairs = self._paired(by)
        if pairs is None:
            return {"pairs": [], "next": None}
        found, following = pairs.page(show, start, limit)
        shown = [[_row(self.dataset, pair.left), _row(self.other, pair.right)] for pair in found]
        return {"pairs": shown, "next": following}

    def _paired(self, by: By) -> Pairs | None:
        """Return the pairs of the datasets as they are now, None while one of them has no shard."""
        for opened in (self.dataset, self.other):
            opened.refreshed()
        left, right = self.dataset.stored, self.other.stored
        if left is None or right is None:
            return None
        known = self._pairs.get(by)
        if known is None or known[0] is not left or known[1] is not right:
            known = self._pairs[by] = left, right, Pairs(left, right, by)
        return known[2]


def _row(dataset: Opened, at: Cursor | None) -> dict[str, Any] | None:
    return None if at is None else dataset.read(lambda rows: rows.at(at), None)
