"""Whole shards on their way from attempts to where they belong, several at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final, Generic, TypeVar

from turbo_fetch.dataset.attempts import Replaced, move_shard
from turbo_fetch.storage import Storage

MOVES_AT_ONCE: Final = 16
DELETED_AT_ONCE: Final = 400
"""Files that are left under the old names, until one request deletes them."""

What = TypeVar("What")


class Moves(Generic[What]):
    """Moves shards in threads. What was moved is told by `arrived`, as what it was begun with; all others stay in their
    attempts, for `recover`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._threads = ThreadPoolExecutor(MOVES_AT_ONCE, "moves")
        self._moving: dict[Future[list[str]], What] = {}
        self._left: list[str] = []
        self._deleting: set[Future[None]] = set()

    def begin(
        self, what: What, attempt: str, record: Mapping[str, Any], replaced: Replaced | None = None
    ) -> None:
        """Begin to move a shard."""
        moving = self._threads.submit(move_shard, self._storage, attempt, record, replaced)
        self._moving[moving] = what

    def arrived(self) -> Iterator[What]:
        """Yield what was moved since; raises OutputError if a shard cannot be moved."""
        for moving in [moving for moving in self._moving if moving.done()]:
            what = self._moving.pop(moving)
            self._left += moving.result()
            yield what
        for deleting in [deleting for deleting in self._deleting if deleting.done()]:
            self._deleting.remove(deleting)
            deleting.result()
        if len(self._left) >= DELETED_AT_ONCE:
            self._deleting.add(self._threads.submit(self._storage.delete_files, self._left))
            self._left = []

    def rest(self) -> Iterator[What]:
        """Yield what is left, when it was moved; raises as `arrived`. Nothing is begun afterwards."""
        try:
            wait(self._moving)
            yield from self.arrived()
        finally:
            self.close()

    def close(self) -> None:
        """Wait until nothing is changed any more."""
        self._threads.shutdown()
