"""All samples of a dataset in one LMDB environment, with random access by key.

The environment grows shard by shard, and a shard's list of keys is written last; so one that was interrupted goes on
after the last whole shard, and what it holds in the end is the same.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Final

import orjson

from turbo_fetch.dataset.formats.lmdb import KEYS_PREFIX, Environment, lmdb_package, meta_record
from turbo_fetch.dataset.formats.members import Member, extension_of, members
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.reader import StoredDataset, StoredShard
from turbo_fetch.errors import Interrupted, SpecError
from turbo_fetch.maintenance.steps import Progress
from turbo_fetch.progress.summary import human_bytes, human_time
from turbo_fetch.stop import StopRequest

SUFFIX: Final = ".lmdb"
_SOURCE: Final = b"__source__"
"""The record, only there while an environment is unfinished, that says what it is made from."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge came to."""

    path: str
    samples: int
    bytes: int
    wall_s: float

    def text(self) -> str:
        """Return it as lines for a person."""
        size, time_taken = human_bytes(self.bytes), human_time(self.wall_s)
        return f"merged    {self.samples:,} samples into {self.path}, {size}, in {time_taken}"


def merge(source_url: str, destination: str, progress: Progress, stop: StopRequest) -> Merged:
    """Write all samples of the dataset at `source_url` into the file `destination`, replacing one that is there.

    Raises SpecError for a destination whose name does not end in .lmdb, InputError, DatasetError, MissingExtra,
    OutputError, or Interrupted, after which the same call goes on.
    """
    started_s = time.monotonic()
    lmdb_package()
    folder, _, name = destination.rstrip("/").rpartition("/")
    if not name.endswith(SUFFIX) or name == SUFFIX:
        raise SpecError(
            f"the destination of a merge is {destination!r}; expected a file whose name ends in {SUFFIX}"
        )
    source = StoredDataset.open(open_place(source_url))
    storage = open_place(folder or ".")
    samples = 0
    with locked(storage):
        path = storage.make_work() / name
        identity = _identity(source)
        environment = Environment(path)
        if environment.get(_SOURCE) != identity:
            environment.close()
            path.unlink()
            environment = Environment(path)
            environment.put([(_SOURCE, identity)])
        try:
            for shard in source.shards:
                if stop:
                    raise Interrupted(
                        "interrupted; the shards that were merged are kept. Run the same command again"
                    )
                samples += _add(environment, source, shard)
                progress.advance(shard.rows)
                progress.refresh()
            environment.delete(_SOURCE)
            environment.put([meta_record(extension_of(source.image), samples, len(source.shards))])
            environment.sync()
        finally:
            environment.close()
        size = path.stat().st_size
        storage.publish(path, name)
    return Merged(destination, samples, size, time.monotonic() - started_s)


def _add(environment: Environment, source: StoredDataset, shard: StoredShard) -> int:
    """Add a shard unless it is there already; return how many samples it has."""
    record = KEYS_PREFIX + shard.name.encode()
    known = environment.get(record)
    if known is not None:
        return known.count(b"\n")
    extension, stems = extension_of(source.image), []
    for batch in source.batches(shard):
        sample: list[Member] = []
        for member in members(batch, lambda _: extension):
            sample.append(member)
            if member.name.endswith(f".{extension}"):
                stems.append(member.name.partition(".")[0])
        environment.put(sorted((member.name.encode("ascii"), member.content) for member in sample))
    environment.put([(record, "".join(f"{stem}\n" for stem in stems).encode())])
    environment.sync()
    return len(stems)


def _identity(source: StoredDataset) -> bytes:
    digest = hashlib.sha256("\n".join(shard.digest for shard in source.shards).encode())
    return orjson.dumps({"url": source.storage.url, "sha256": digest.hexdigest()})
