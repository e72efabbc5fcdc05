import os
from collections.abc import Sequence
from typing import final

import pyarrow as pa

_Memory = bytes | bytearray | memoryview
"""What lies there is not to change during a call."""

__all__ = [
    "MALFORMED_MARK",
    "CsvReader",
    "HashedFile",
    "JsonArray",
    "Listing",
    "Transformer",
    "__profile__",
    "__version__",
    "crc32c",
    "digests",
    "parse_urls",
    "resolve_location",
    "spread",
    "write_at",
]

__version__: str
__profile__: str
MALFORMED_MARK: str

@final
class Transformer:
    def __new__(
        cls,
        *,
        width: int,
        height: int,
        more_sizes: Sequence[tuple[int, int]],
        mode: str,
        only_if_bigger: bool,
        downscale: str,
        upscale: str,
        encode: str,
        quality: int,
        skip_reencode: bool,
        min_side: int,
        max_pixels: int,
        max_aspect: float,
        digest: str,
        exif: bool,
        phash: bool,
        crop: bool,
        threads: int,
        memory_bytes: int,
    ) -> Transformer: ...
    def run(
        self, bodies: Sequence[_Memory], boxes: Sequence[Sequence[tuple[float, float, float, float]]] = ...
    ) -> pa.RecordBatch: ...
    def run_pixels(
        self,
        body: _Memory,
        samples: _Memory,
        shape: tuple[int, int, str, int],
        boxes: Sequence[tuple[float, float, float, float]] = ...,
    ) -> pa.RecordBatch: ...
    def take_memory(self, count: int) -> None: ...
    def give_back_memory(self, count: int) -> None: ...

def digests(kind: str, bodies: Sequence[_Memory]) -> list[str | None]:
    """Return the md5, sha256 or sha512 of each body in lower-case hex."""

def parse_urls(urls: pa.Array) -> pa.RecordBatch:
    """Parse strings into the columns normalised, host, domain and error, one row each, none raising."""

def resolve_location(base: str, location: bytes) -> str | None:
    """Resolve a Location header as browsers do, without its fragment; None if it is no URL."""

def spread(domains: pa.Array, seed: int) -> pa.Array:
    """Return the uint32 order that spaces the rows of each domain evenly; null counts as a domain."""

@final
class CsvReader:
    """Reads CSV fed in pieces; see rust/urls/src/csv.rs for the grammar."""

    def __new__(cls, delimiter: str, quoting: str) -> CsvReader: ...
    def feed(self, block: bytes, *, is_last: bool) -> None:
        """Take the next bytes."""

    def header(self) -> list[str] | None:
        """Read the first record: None if more bytes are needed, empty if there is none at all."""

    def read(self, columns: Sequence[int], max_rows: int) -> pa.RecordBatch:
        """Read complete records as strings; no rows: feed more. ValueError for an endless line."""

    def take_notes(self) -> list[tuple[str, int, int]]:
        """Return what was odd since the last call: its name, how many rows, and the line of the first."""

@final
class JsonArray:
    """Cuts a JSON array fed in pieces into lines, one per element; ValueError if it is none."""

    def __new__(cls) -> JsonArray: ...
    def feed(self, block: bytes) -> bytes:
        """Take the next bytes and return the lines they make, the last one maybe incomplete."""

    def finish(self) -> None:
        """Say that no bytes follow."""

@final
class HashedFile:
    """A file that is written from start to end and hashed on the way; its descriptor is the caller's to close."""

    def __new__(cls, descriptor: int) -> HashedFile: ...
    def append(self, pieces: Sequence[_Memory]) -> None:
        """Write all pieces where the file ends so far; OSError if the system does not take them."""

    def hexdigest(self) -> str:
        """Return the SHA-256 of all that was written."""

@final
class Listing:
    """What is in a place, 8 bytes for a file, and which lines of its manifest that bears out."""

    def __new__(cls) -> Listing: ...
    def add(self, prefix: str, entries: Sequence[tuple[bytes, int | None]]) -> None:
        """Note files with their sizes, and folders, each with `prefix` before its name."""

    def add_folder(self, folder: str | os.PathLike[str], prefix: str) -> None:
        """Note all that is directly in a folder of this machine; OSError if it cannot be read."""

    def has(self, name: object, size: object) -> bool:
        """Return whether a file of so many bytes is there, or a folder of this name, which is not looked into."""

    def has_record(self, shard: object) -> bool:
        """Return whether the commit record of a shard is there."""

    def shards_beside(self, known: Sequence[int]) -> list[str]:
        """Return the names of the shards whose commit records are there, in order, but for those known."""

    def check(self, manifest: str | os.PathLike[str]) -> list[int | None]:
        """Return the shard of each line of a manifest; None for a line that may not be the record of a shard that is
        there whole, or is not written as lines are written now. OSError if the manifest cannot be read."""

def write_at(descriptor: int, pieces: Sequence[_Memory], offset: int) -> None:
    """Write all pieces from byte `offset` on; OSError if the system does not take them."""

def crc32c(pieces: Sequence[_Memory], checksum: int = 0) -> int:
    """Return the CRC-32C of the pieces as of one message; `checksum` is that of what comes before."""
