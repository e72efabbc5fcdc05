"""`verify`: everything that a dataset says of itself is checked against its files; nothing is changed.

Three levels: `quick` looks at names, sizes and numbers of rows; `full` also hashes every file and joins every row with
its image; `deep` also decodes every image and compares its size, and original bytes with their hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from turbo_fetch.dataset import names
from turbo_fetch.dataset.formats import data_suffixes
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.manifest import Manifest, read_lines, read_record
from turbo_fetch.dataset.place import open_place
from turbo_fetch.dataset.reader import StoredDataset
from turbo_fetch.maintenance.shard_check import Level, Problem, ShardProblems, check_shard
from turbo_fetch.progress.summary import counted, human_bytes
from turbo_fetch.runners.step import Progress
from turbo_fetch.runners.steps import run_steps
from turbo_fetch.spec import EngineSpec
from turbo_fetch.spool import frames
from turbo_fetch.spool.spool import spool_identity
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage

SHOWN: Final = 50


@dataclass(slots=True)
class Verified:
    """What a check came to."""

    path: str
    level: Level
    shards: int = 0
    rows: int = 0
    samples: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is no damage: work of a run that was interrupted."""

    @property
    def damaged_shards(self) -> list[str]:
        """The names of the shards that have a problem."""
        return sorted({problem.shard for problem in self.problems if problem.shard})

    def text(self) -> str:
        """Return it as lines for a person."""
        lines = [
            f"dataset   {self.path}",
            f"checked   {counted(self.shards, 'shard')}, {counted(self.rows, 'row')}, "
            f"{counted(self.samples, 'sample')}, "
            f"{human_bytes(self.bytes)} ({self.level})",
        ]
        lines += [f"note      {note}" for note in self.notes]
        lines += [f"problem   {problem.place}: {problem.what}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"          … and {len(self.problems) - SHOWN:,} more; --json gives all")
        if self.damaged_shards:
            lines.append(
                f"damaged   {len(self.damaged_shards):,} shards; `turbo-fetch verify --repair` removes them, and the "
                "next run rebuilds them"
            )
        elif not self.problems:
            lines.append("problems  none")
        return "\n".join(lines)


def verify(url: str, level: Level, engine: EngineSpec, progress: Progress, stop: StopRequest) -> Verified:
    """Check the dataset at `url`; problems are in the result. Raises InputError if there is no dataset."""
    storage = open_place(url)
    dataset = StoredDataset.open(storage)
    result = Verified(storage.url, level, shards=len(dataset.shards))
    result.problems += _listing_problems(storage, dataset)
    result.notes += _spool_notes(storage, result.problems)
    bare = dataset.without_shards()
    steps = ((bare, shard) for shard in dataset.shards)
    found: ShardProblems
    for found in run_steps(partial(check_shard, level), steps, engine, progress, stop):
        result.problems += found.problems
        result.rows += found.rows
        result.samples += found.samples
        result.bytes += found.bytes
        progress.advance(found.rows)
    result.problems.sort(key=lambda problem: problem.place)
    return result


def repair(result: Verified) -> int:
    """Take the damaged shards out of their dataset; return how many. What is published is in the manifest then.

    Their files stay until the next run replaces them. Raises OutputError if the place cannot be written to.
    """
    storage = open_place(result.path)
    with locked(storage):
        # What a killed command left may rely on files that are damaged.
        storage.delete(names.ATTEMPTS)
        for name in result.damaged_shards:
            storage.delete(names.stats(name))
        Manifest.open(storage).close()
    return len(result.damaged_shards)


def _listing_problems(storage: Storage, dataset: StoredDataset) -> Iterator[Problem]:
    """Yield what is wrong with the manifest, and with files that no committed shard owns."""
    yield from _manifest_problems(storage)
    committed = {shard.name for shard in dataset.shards}
    unowned: dict[str, list[str]] = {}
    pattern = names.shard_files(data_suffixes())
    for entry in storage.list():
        match = pattern.fullmatch(entry.name)
        if match is not None and match[1] not in committed:
            unowned.setdefault(match[1], []).append(entry.name)
    for name, files in sorted(unowned.items()):
        if names.stats(name) in files and read_record(storage, name) is None:
            yield Problem(
                name, names.stats(name), "the commit record is damaged, and no line of the manifest is intact"
            )
        elif names.stats(name) in files:
            # Not a problem of the shard: a repair must adopt it, and never take it out.
            yield Problem(
                "",
                names.MANIFEST,
                f"lacks shard {name}, which is published; the next run, or --repair, adopts it",
            )
        else:
            listed = ", ".join(sorted(files))
            yield Problem("", name, f"is not finished ({listed}, no commit record); the next run rebuilds it")


def _manifest_problems(storage: Storage) -> Iterator[Problem]:
    good = Counter[int]()
    try:
        for number, record in enumerate(read_lines(storage), 1):
            if record is None:
                what = "is damaged; the next run, or --repair, makes it again from the commit record"
                yield Problem("", names.MANIFEST, f"line {number} {what}")
            else:
                good[record["shard"]] += 1
    except FileNotFoundError:
        yield Problem("", names.MANIFEST, "is missing; the next run rebuilds it from the commit records")
    for shard, count in good.items():
        if count > 1:
            yield Problem(
                "", names.MANIFEST, f"has {count} lines for shard {shard}; the next run drops all but one"
            )


def _torn_bytes(path: Path) -> int:
    """Return how many bytes follow the last whole frame of a spool."""
    with (
        path.open("rb") as file,
        frames.Mapped(file.fileno()) as mapped,
        memoryview(mapped.buffer) as content,
    ):
        end = frames.PREAMBLE.size
        _, nonce = frames.PREAMBLE.unpack_from(content)
        for frame in frames.walk(content, nonce, end):
            end = frame.end
        return content.nbytes - end


def _spool_notes(storage: Storage, problems: list[Problem]) -> Iterator[str]:
    """Yield what is known of the spools on this machine; one that is none at all is a problem."""
    open_shards = [*names.spools(storage.work), *names.spools(storage.work, of_refresh=True)]
    for _, path in open_shards:
        identity = spool_identity(path)
        if identity is None:
            problems.append(
                Problem(
                    "",
                    str(path),
                    "is not a spool, or its start is damaged; the next run starts its shard again",
                )
            )
            continue
        torn = _torn_bytes(path)
        after = f", {torn:,} bytes at its end are torn and will be fetched again" if torn else ""
        yield f"shard {identity['shard']} is open: {path.name} holds what has arrived{after}"
