"""Files on their way out: written in the work folder, counted and hashed as they are written."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turbo_fetch.storage.failures import write_error

BLOCK_BYTES: Final = 256 << 10
WORTH_A_COPY_BYTES: Final = 32 << 10
MOST_VECTORS: Final = 512


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A finished file or folder at `path`, to be published as `name`.

    `bytes` and `sha256` are of its content. Those of a folder are the sum of its files, and the hash of the
    lines `{name} {bytes} {sha256}` of its files in name order, each ended by a line feed.
    """

    name: str
    path: Path
    bytes: int
    sha256: str
    is_folder: bool = False


class StagedFile(io.RawIOBase):
    """A new local file, written once from start to end; OutputError if that fails.

    Pieces are gathered into blocks: many small ones cost one write and one hash per block, which the processor's cache
    holds from the one to the other.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.size_bytes = 0
        self._pieces: list[bytes | memoryview] = []
        self._gathered_bytes = 0
        self._digest = hashlib.sha256()
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise write_error(error, str(path), 0) from error

    def writable(self) -> bool:
        """Return True; see io.RawIOBase."""
        return True

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self.size_bytes

    def write(self, content: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Append a copy of `content`; return its length in bytes."""
        return self.append((bytes(content),))

    def append(self, pieces: Iterable[bytes | memoryview]) -> int:
        """Append `pieces`, which must not change until the file is finished; return their bytes."""
        before = self._gathered_bytes
        for piece in pieces:
            self._pieces.append(piece)
            self._gathered_bytes += len(piece)
        added = self._gathered_bytes - before
        self.size_bytes += added
        if self._gathered_bytes >= BLOCK_BYTES:
            self._drain()
        return added

    def finish(self, name: str) -> WrittenFile:
        """Write what is left and close; the file then is complete but not yet synced to disk."""
        self._drain()
        self.close()
        return WrittenFile(name, self.path, self.size_bytes, self._digest.hexdigest())

    def close(self) -> None:
        """Close the file, complete or not."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def _drain(self) -> None:
        blocks = _blocks(self._pieces)
        self._pieces = []
        self._gathered_bytes = 0
        for block in blocks:
            self._digest.update(block)
        try:
            for start in range(0, len(blocks), MOST_VECTORS):
                _write_all(self._descriptor, blocks[start : start + MOST_VECTORS])
        except OSError as error:
            raise write_error(error, str(self.path), sum(map(len, blocks))) from error


def _blocks(pieces: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the same content in fewer pieces: small neighbours are joined, large ones are not copied."""
    blocks: list[bytes | memoryview] = []
    small: list[bytes | memoryview] = []
    for piece in pieces:
        if len(piece) < WORTH_A_COPY_BYTES:
            small.append(piece)
            continue
        blocks += [b"".join(small), piece]
        small = []
    blocks.append(b"".join(small))
    return blocks


def _write_all(descriptor: int, blocks: list[bytes | memoryview]) -> None:
    left = [memoryview(block) for block in blocks]
    while left:
        written = os.writev(descriptor, left)
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]
