"""The bound on bytes in flight: how much of all bodies may be in memory at once.

Bytes are charged in advance where their number is known and small, else as they arrive, and are released when
the transform is done with them. A quarter of the limit is a reserve. Once the rest is used, readers wait, and no new
request is admitted. Incomplete bodies of one domain may use half of that, so that one which never ends its bodies
leaves room to others. All this would deadlock when no incomplete body may go on, so the eldest reader that has to
wait becomes exempt: its bytes count no more for anything, until it ends. It is stopped only when finished bodies
fill the reserve and there is no room, and those are released without its help.

So at any time: used ≤ limit + one body (the exempt one) + one chunk per reader.
"""

from __future__ import annotations

import asyncio
from typing import Final

_RESERVE_PARTS: Final = 4
_DOMAIN_PARTS: Final = 2


class ByteBudget:
    """Counts bytes in one event loop; not thread-safe."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        """Bytes of bodies in memory, complete or not."""
        self._finished_bytes = 0
        self._reserve_bytes = limit_bytes // _RESERVE_PARTS
        self._domain_bytes = max(1, (limit_bytes - self._reserve_bytes) // _DOMAIN_PARTS)
        self._exempt: BodyReader | None = None
        self._incomplete_bytes: dict[str, int] = {}
        """By domain, those of the exempt reader left out."""
        self._readers: dict[BodyReader, None] = {}
        self._sleepers: list[asyncio.Future[None]] = []

    @property
    def has_room(self) -> bool:
        """Whether new requests may start and all readers may read."""
        exempt_bytes = 0 if self._exempt is None else self._exempt.charged_bytes
        return self.used_bytes - exempt_bytes < self.limit_bytes - self._reserve_bytes

    async def room(self) -> None:
        """Wait until there is room."""
        while not self.has_room:
            await self._change()

    def reader(self, domain: str = "") -> BodyReader:
        """Register the reader of one body of a domain; age is the order of registration."""
        return self._registered(BodyReader(self, domain))

    def local_reader(self) -> BodyReader:
        """Register the reader of a body that does not come over the network."""
        return self._registered(BodyReader(self, ""))

    def _registered(self, reader: BodyReader) -> BodyReader:
        self._readers[reader] = None
        return reader

    def release(self, count: int) -> None:
        """Give back the bytes of finished bodies, once nothing refers to them any more."""
        self.used_bytes -= count
        self._finished_bytes -= count
        self._wake()

    def _may_read(self, reader: BodyReader) -> bool:
        if self.has_room and (
            reader is self._exempt or self._incomplete_bytes.get(reader.domain, 0) < self._domain_bytes
        ):
            return True
        if self._finished_bytes > self._reserve_bytes:
            return False
        if self._exempt is None and next(iter(self._readers)) is reader:
            self._count(reader, -reader.charged_bytes)
            self._exempt = reader
            self._wake()
        return reader is self._exempt

    def _count(self, reader: BodyReader, count: int) -> None:
        """Count bytes of an incomplete body with those of its domain."""
        if reader is self._exempt:
            return
        left_bytes = self._incomplete_bytes.get(reader.domain, 0) + count
        if left_bytes:
            self._incomplete_bytes[reader.domain] = left_bytes
        else:
            self._incomplete_bytes.pop(reader.domain, None)

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

    __slots__ = ("_budget", "charged_bytes", "domain")

    def __init__(self, budget: ByteBudget, domain: str) -> None:
        self._budget = budget
        self.domain = domain
        self.charged_bytes = 0

    def charge_up_to(self, size: int) -> None:
        """Count the body as `size` bytes large, if it does not count as larger already."""
        more_bytes = max(0, size - self.charged_bytes)
        self.charged_bytes += more_bytes
        self._budget.used_bytes += more_bytes
        self._budget._count(self, more_bytes)

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
        self._budget.used_bytes += size - self.charged_bytes
        self._budget._finished_bytes += size
        self._leave()

    def abandon(self) -> None:
        """End badly: the bytes are gone."""
        self._budget.used_bytes -= self.charged_bytes
        self._leave()

    def _leave(self) -> None:
        del self._budget._readers[self]
        self._budget._count(self, -self.charged_bytes)
        if self._budget._exempt is self:
            self._budget._exempt = None
        self._budget._wake()
