"""The bound on bytes in flight: how much of all bodies may be in memory at once.

Bytes are charged in advance where their number is known and small, else as they arrive, and are released when
the transform is done with them. A quarter of the limit is a reserve. Once the rest is used, readers wait, and
no new request is admitted. That alone would deadlock when all bytes belong to bodies that are still incomplete,
so the eldest reader may go on into the reserve; it is stopped only when finished bodies alone fill the reserve,
and those are released without its help.

So at any time: used ≤ limit + one body (the eldest's) + one chunk per reader.
"""

from __future__ import annotations

import asyncio
from typing import Final

_RESERVE_PARTS: Final = 4


class ByteBudget:
    """Counts bytes in one event loop; not thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        """Bytes of bodies in memory, complete or not."""
        self._finished_bytes = 0
        self._reserve_bytes = limit_bytes // _RESERVE_PARTS
        self._readers: dict[BodyReader, None] = {}
        self._sleepers: list[asyncio.Future[None]] = []

    @property
    def has_room(self) -> bool:
        """Whether new requests may start and all readers may read."""
        return self.used_bytes < self.limit_bytes - self._reserve_bytes

    async def room(self) -> None:
        """Wait until there is room."""
        while not self.has_room:
            await self._change()

    def reader(self) -> BodyReader:
        """Register the reader of one body; age is the order of registration."""
        reader = BodyReader(self)
        self._readers[reader] = None
        return reader

    def local_reader(self) -> BodyReader:
        """Register the reader of a body that does not come over the network."""
        reader = BodyReader(self)
        self._readers[reader] = None
        return reader

    def release(self, count: int) -> None:
        """Give back the bytes of finished bodies, once nothing refers to them any more."""
        self.used_bytes -= count
        self._finished_bytes -= count
        self._wake()

    def _may_read(self, reader: BodyReader) -> bool:
        if self.has_room:
            return True
        return self._finished_bytes <= self._reserve_bytes and next(iter(self._readers)) is reader

    async def _change(self) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        await sleeper

    def _wake(self) -> None:
        sleepers, self._sleepers = self._sleepers, []
        for sleeper in sleepers:
            if not sleeper.done():
                sleeper.set_result(None)


class BodyReader:
    """One body that is being read. It ends with `finish` or `abandon`, exactly once."""

    __slots__ = ("_budget", "_charged_bytes")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._charged_bytes = 0

    def charge_up_to(self, size: int) -> None:
        """Count the body as `size` bytes large, if it does not count as larger already."""
        more_bytes = max(0, size - self._charged_bytes)
        self._charged_bytes += more_bytes
        self._budget.used_bytes += more_bytes

    @property
    def may_read(self) -> bool:
        """Whether the next chunk may be read now."""
        return self._budget._may_read(self)

    async def turn(self) -> None:
        """Wait until the next chunk may be read."""
        while not self._budget._may_read(self):
            await self._budget._change()

    def finish(self, size: int) -> None:
        """End well: just the `size` bytes of the body stay charged, until its owner releases them."""
        self._budget.used_bytes += size - self._charged_bytes
        self._budget._finished_bytes += size
        self._leave()

    def abandon(self) -> None:
        """End badly: the bytes are gone."""
        self._budget.used_bytes -= self._charged_bytes
        self._leave()

    def _leave(self) -> None:
        del self._budget._readers[self]
        self._budget._wake()
