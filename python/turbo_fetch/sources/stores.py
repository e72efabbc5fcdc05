"""Object stores and hubs, by fsspec, confined to the beginnings of addresses that the spec names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.failures import KnownFailure
from turbo_fetch.outcomes import Outcome
from turbo_fetch.sources.source import CHUNK_BYTES, refused
from turbo_fetch.storage.filesystems import open_filesystem, protocols

WHOLE: Final = (Outcome.UNREADABLE, "the store does not send parts of objects")
OUTSIDE: Final = "outside of the stores in fetch.sources.stores"


class Stores:
    """The objects whose addresses begin as the spec says. Clients are made on first use."""

    is_remote = True

    def __init__(self, prefixes: Sequence[str]) -> None:
        self._prefixes = tuple(prefixes)

    @property
    def protocols(self) -> frozenset[str]:
        """The protocols of which anything is open."""
        return frozenset(prefix.partition("://")[0] for prefix in self._prefixes)

    def check(self) -> None:
        """Raise MissingExtra or SpecError if a protocol cannot be used."""
        for prefix in self._prefixes:
            open_filesystem(prefix, "Reading", SpecError)

    def chunks(self, address: str, start: int, stop: int | None) -> Iterator[bytes]:
        """See Source."""
        if not self._allows(address):
            raise refused(OUTSIDE)
        scheme, _, rest = address.partition("://")
        scheme = scheme.lower()
        try:
            filesystem, path = open_filesystem(f"{scheme}://{rest}", "Reading", SpecError, _options(scheme))
        except SpecError as error:
            raise KnownFailure((Outcome.URL, "not an address of this store")) from error
        if start == 0 and stop is None and "hf" in protocols(filesystem):
            yield from _stream(filesystem, path)
            return
        first: bytes | None = None
        while True:
            end = start + CHUNK_BYTES if stop is None else min(stop, start + CHUNK_BYTES)
            chunk = _range(filesystem, path, start, end)
            if len(chunk) > end - start:
                # All of the object, from its beginning: its client does not say so.
                if start or stop is not None:
                    raise KnownFailure(WHOLE)
                yield from _pieces(chunk)
                return
            if chunk == first and _ends_by(filesystem, path, start):
                # Here all of the object is just as long as a chunk.
                yield b""
                return
            first = first or chunk
            start += len(chunk)
            yield chunk
            if len(chunk) < CHUNK_BYTES:
                return

    def _allows(self, address: str) -> bool:
        """Whether an address begins as one that is open, up to a slash, and names nothing above or beside it."""
        scheme, _, rest = address.partition("://")
        if "::" in address or not rest or any(part in {".", ".."} for part in rest.split("/")):
            return False
        address = f"{scheme.lower()}://{rest}"
        return any(
            address.startswith(prefix if prefix.endswith("/") else f"{prefix}/") or address == prefix
            for prefix in self._prefixes
        )


def _options(scheme: str) -> Mapping[str, Any]:
    """Return what the client of a store is told besides the user's settings: it leaves it to us to try again.

    It takes longer than a read may, so that a store which is down would show as one that is slow.
    """
    if scheme not in {"s3", "s3a"}:
        return {}
    import fsspec

    settings: Mapping[str, Any] = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {"retries": {"max_attempts": 0}, **settings}}


def _pieces(content: bytes) -> Iterator[bytes]:
    """Yield a whole object as chunks, the last of which is short."""
    for start in range(0, len(content) + 1, CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]


def _stream(filesystem: Any, path: str) -> Iterator[bytes]:
    """Yield a file of the Hugging Face Hub by one request: to read a range, its client lists the folder first."""
    with filesystem.open(path, "rb", block_size=0) as file:
        while True:
            chunk = bytes(file.read(CHUNK_BYTES))
            while len(chunk) < CHUNK_BYTES and (more := file.read(CHUNK_BYTES - len(chunk))):
                chunk += more
            yield chunk
            if len(chunk) < CHUNK_BYTES:
                return


def _range(filesystem: Any, path: str, start: int, end: int) -> bytes:
    """Return the bytes of an object from `start` to before `end`, fewer where it ends; one request, as a rule."""
    try:
        return bytes(filesystem.cat_file(path, start=start, end=end))
    except (FileNotFoundError, PermissionError):
        raise
    except Exception:
        # Stores refuse ranges of empty objects, and those that begin at the end, each in its own way.
        if _ends_by(filesystem, path, start):
            return b""
        raise


def _ends_by(filesystem: Any, path: str, start: int) -> bool:
    """Return whether an object has no bytes from `start` on."""
    return (filesystem.info(path)["size"] or 0) <= start
