"""Deny lists: what must not be in the dataset, as sorted files of 16-byte keys that all workers map.

A list of ten million URLs is a file of 160 MB, of which a process holds only the pages that it looks at. Keys are
half of a blake2b-256 of a URL or domain, and the first half of a hash of a file: two different ones share a key once
in 10^38.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from turbo_fetch.dataset import names
from turbo_fetch.errors import InputError
from turbo_fetch.plan.columns import Columns
from turbo_fetch.plan.list_notes import ListNotes, sentences
from turbo_fetch.plan.lists import ListFile, find_lists
from turbo_fetch.plan.reader import ListReader
from turbo_fetch.plan.urls import parse_url, parse_urls
from turbo_fetch.sources.identity import Identities
from turbo_fetch.spec import FetchSpec, InputSpec
from turbo_fetch.storage import Storage
from turbo_fetch.storage.failures import explained

HASH_KINDS: Final = {32: "md5", 64: "sha256", 128: "sha512"}
"""Hex digits of a hash → its kind."""


def text_key(text: str) -> bytes:
    """Return the key of a URL or domain."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def hash_key(digest: str) -> bytes:
    """Return the key of a hash in hex."""
    return bytes.fromhex(digest[:32])


class KeySet:
    """Sorted keys in a file that is mapped; immutable, shared by all processes that open it."""

    def __init__(self, path: Path) -> None:
        # An empty file cannot be mapped.
        size = path.stat().st_size
        self._keys = np.memmap(path, _SORTABLE, "r") if size else np.empty(0, _SORTABLE)

    def __len__(self) -> int:
        return int(self._keys.size)

    def contains(self, keys: Sequence[bytes]) -> list[bool]:
        """Return for each key whether it is in the set."""
        if not len(self) or not keys:
            return [False] * len(keys)
        sought = np.frombuffer(b"".join(keys), _SORTABLE)
        places = np.searchsorted(self._keys, sought)
        found = self._keys[np.minimum(places, len(self) - 1)] == sought
        return [bool(each) for each in found]


_SORTABLE: Final = np.dtype("S16")
"""Bytes that numpy compares as such; it pads with zeros, so that keys that end in zeros are equal to themselves."""


@dataclass(frozen=True, slots=True)
class DenyList:
    """What a job denies: URLs and what images of other sources are known by, hosts, and hashes by their kind."""

    urls: KeySet | None
    domains: KeySet | None
    hashes: dict[str, KeySet]

    @classmethod
    def open(cls, fetch: FetchSpec, storage: Storage) -> DenyList | None:
        """Return the deny list of a job, made in the work folder if it is not there; None if nothing is denied.

        Blocks; of several processes one makes it. Raises InputError for a list that cannot be read, or one of
        hashes that holds something else.
        """
        spec = fetch.deny
        if not (spec.urls or spec.domains or spec.hashes):
            return None
        identities = Identities(fetch)
        urls = _key_sets(spec.urls, "url", storage, identities)
        domains = _key_sets(spec.domains, "domain", storage, identities)
        return cls(
            urls.get("url"), domains.get("domain"), _key_sets(spec.hashes, "hash", storage, identities)
        )

    def reason(self, url: str, host: str | None) -> str | None:
        """Return why what is known by this, on this host if it is of the web, must not be used, or None."""
        if (
            self.domains is not None
            and host is not None
            and any(self.domains.contains([text_key(part) for part in _parents(host)]))
        ):
            return "domain is on a deny list"
        if self.urls is not None and self.urls.contains([text_key(url)])[0]:
            return "URL is on a deny list"
        return None

    def objects_to(self, address: str) -> str | None:
        """Return why an address that a redirect leads to must not be used, or None."""
        url, host, _ = parse_url(address)
        reason = None if url is None else self.reason(url, host)
        return None if reason is None else f"{reason}, to which it redirects"


def _parents(host: str) -> list[str]:
    """Return a host and all domains above it."""
    labels = host.rstrip(".").split(".")
    return [".".join(labels[start:]) for start in range(len(labels))]


def _key_sets(lists: Sequence[str], what: str, storage: Storage, identities: Identities) -> dict[str, KeySet]:
    if not lists:
        return {}
    files = [file for each in lists for file in find_lists(InputSpec(urls=each, url_column=what))]
    made_of = [*(file.fingerprint for file in files), *(identities.rules if what == "url" else ())]
    identity = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    kinds = sorted(HASH_KINDS.values()) if what == "hash" else [what]
    work, staging = storage.make_work(), storage.make_staging()
    paths = {kind: work / names.deny_keys(kind, identity) for kind in kinds}
    with explained(str(work)), (staging / names.deny_lock(what)).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(path.exists() for path in paths.values()):
            _make(files, what, staging, paths, identities)
    return {kind: KeySet(path) for kind, path in paths.items() if path.stat().st_size or what != "hash"}


def _make(
    files: Iterable[ListFile], what: str, staging: Path, paths: dict[str, Path], identities: Identities
) -> None:
    found: dict[str, list[bytes]] = {kind: [] for kind in paths}
    columns = Columns(what)
    for file in files:
        with ListReader(file, columns, columns.schema({})) as reader:
            for batch in reader:
                _refuse_unread(reader.notes, batch.column("url"), what)
                for kind, of_batch in _keys(batch.column("url"), what, file.url, identities):
                    found[kind].append(of_batch)
    for kind, path in paths.items():
        keys = np.frombuffer(b"".join(found.pop(kind)), _SORTABLE)
        temporary = staging / names.staged(path.name)
        temporary.write_bytes(np.unique(keys).tobytes())
        temporary.replace(path)


def _refuse_unread(notes: ListNotes, values: pa.Array, what: str) -> None:
    """Raise InputError if a row of a batch may deny something else than it says: it would be let through."""
    for sentence in sentences(notes.counts):
        raise InputError(f"a deny list has to be read as it is written, but of this one {sentence}")
    missing = [row for row, text in enumerate(values.to_pylist()) if text is None]
    if missing:
        row = notes.rows_before - len(values) + missing[0] + 1
        raise InputError(f"{notes.file}: row {row:,} of this deny list has no {what!r}")


def _keys(values: pa.Array, what: str, file: str, identities: Identities) -> Iterator[tuple[str, bytes]]:
    """Yield the keys of a batch of a list, by kind; empty lines are none."""
    texts = [text.strip() for text in values.to_pylist() if text is not None and text.strip()]
    if what == "url":
        if unmatched := identities.unmatched(texts):
            raise InputError(
                f"{file}: {unmatched[0][:80]!r} is not an address; expected one like http://example.org/1.jpg"
            )
        known = identities.of(pa.table({"url": pa.array(texts, pa.string())}))
        yield what, b"".join(text_key(each) for each in known if each is not None)
    elif what == "domain":
        hosts = parse_urls(pa.array([f"http://{text.lstrip('.')}/" for text in texts], pa.string())).host
        if None in hosts:
            raise InputError(
                f"{file}: {texts[hosts.index(None)]!r} is not a domain; expected one like example.com"
            )
        yield what, b"".join(text_key(host.rstrip(".")) for host in hosts if host is not None)
    else:
        for text in texts:
            kind = HASH_KINDS.get(len(text))
            if kind is None or not is_hex(text):
                raise InputError(
                    f"{file}: {text[:80]!r} is not a hash; expected md5, sha256 or sha512 in hex"
                )
            yield kind, hash_key(text)


def is_hex(text: str) -> bool:
    """Return whether a text is hex digits only."""
    return bool(text) and all(character in "0123456789abcdefABCDEF" for character in text)
