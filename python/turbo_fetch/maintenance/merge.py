"""All samples of a dataset in one file, in formats that can have that."""

from __future__ import annotations

import glob
import hashlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from turbo_fetch.dataset.formats import all_formats, format_of
from turbo_fetch.dataset.formats.format import NamedShard
from turbo_fetch.dataset.lease import Lease
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.reader import StoredDataset
from turbo_fetch.errors import Interrupted, SpecError, TurboFetchError
from turbo_fetch.progress.summary import human_bytes, human_time
from turbo_fetch.runners.step import Progress
from turbo_fetch.spec import OutputFormat
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage.disk import is_locked


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


def merge(
    source_url: str, destination: str, output_format: OutputFormat, progress: Progress, stop: StopRequest
) -> Merged:
    """Write all samples of the dataset at `source_url` into the file `destination`, replacing one that is there.

    Raises SpecError for a format that has no such file, or a name that does not end in its suffix, InputError,
    DatasetError, MissingExtra, OutputError, or Interrupted, after which the same call goes on.
    """
    started_s = time.monotonic()
    kind = format_of(output_format)
    if kind.merge is None:
        able = [name for name, each in all_formats().items() if each.merge is not None]
        raise SpecError(
            f"{output_format} has no file of all samples; expected the format {' or '.join(able)}"
        )
    kind.check_package()
    folder, _, name = destination.rstrip("/").rpartition("/")
    if not name.endswith(kind.suffix) or name == kind.suffix:
        raise SpecError(
            f"the destination of a merge is {destination!r}; expected a file whose name ends in {kind.suffix}"
        )
    source = StoredDataset.open(open_place(source_url))
    storage = open_place(folder or ".")
    with locked(storage, stop=stop) as lease, _unfinished(storage.work, name, lease) as path:
        samples = kind.merge(path, _identity(source), source.image, _shards(source, progress, stop))
        size = path.stat().st_size
        storage.publish(path, name)
    return Merged(destination, samples, size, time.monotonic() - started_s)


@contextmanager
def _unfinished(work: Path, name: str, lease: Lease) -> Iterator[Path]:
    """Give the file in the work folder that becomes `name`: with what a merge that was interrupted left, or empty.

    It is named by the holder of the lease, who has it locked. One who stands still when the lease is lost has the file
    alone then, too.
    """
    path = work / f"{lease.claim.holder}.{name}"
    with ExitStack() as files:
        # One that stood still before this may have lost the lease again.
        earlier = (each for each in work.glob(f"[0-9]*.{glob.escape(name)}") if each.name < path.name)
        for left in sorted(earlier):
            file = files.enter_context(left.open("r+b"))
            if is_locked(file) and not path.exists():
                left.rename(path)
            else:
                left.unlink()
        if not path.exists():
            is_locked(files.enter_context(path.open("xb")))
        try:
            yield path
        finally:
            with suppress(TurboFetchError):
                lease.check()
            if lease.loss is not None:
                path.unlink(missing_ok=True)


def _shards(source: StoredDataset, progress: Progress, stop: StopRequest) -> Iterator[NamedShard]:
    for shard in source.shards:
        if stop:
            raise Interrupted("interrupted; the shards that were merged are kept. Run the same command again")
        yield shard.name, source.batches(shard)
        progress.advance(shard.rows)
        progress.refresh()


def _identity(source: StoredDataset) -> bytes:
    """Return what stands for the contents of a dataset, wherever it is."""
    return hashlib.sha256("\n".join(shard.digest for shard in source.shards).encode()).digest()
