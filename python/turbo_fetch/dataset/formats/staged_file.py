"""Files on their way out: written in the work folder, counted and hashed as they are written."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turbo_fetch import _native
from turbo_fetch.storage.failures import write_error

GATHERED_BYTES: Final = 4 << 20


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

    Pieces are gathered and handed to the native module together, which writes and hashes them without Python's lock.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.size_bytes = 0
        self._pieces: list[bytes | memoryview] = []
        self._gathered_bytes = 0
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise write_error(error, str(path), 0) from error
        self._hashed = _native.HashedFile(self._descriptor)

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
        if self._gathered_bytes >= GATHERED_BYTES:
            self._drain()
        return added

    def finish(self, name: str) -> WrittenFile:
        """Write what is left and close; the file then is complete but not yet synced to disk."""
        self._drain()
        self.close()
        return WrittenFile(name, self.path, self.size_bytes, self._hashed.hexdigest())

    def close(self) -> None:
        """Close the file, complete or not."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def _drain(self) -> None:
        pieces, self._pieces = self._pieces, []
        count, self._gathered_bytes = self._gathered_bytes, 0
        try:
            self._hashed.append(pieces)
        except OSError as error:
            raise write_error(error, str(self.path), count) from error
