"""Runs of whole jobs in tests, and what they leave."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

import processes
import turbo_fetch
from origin import Origin
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.tally import Tally
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec, parse_spec
from turbo_fetch.stop import StopRequest


def write_list(path: Path, urls: Sequence[str | None], **columns: Sequence[object]) -> Path:
    """Write a Parquet list with captions and further `columns`."""
    captions = [f"image {number}" for number in range(len(urls))]
    pq.write_table(pa.table({"url": pa.array(urls, pa.string()), "caption": captions, **columns}), path)
    return path


def job_spec(urls: Path, path: Path, /, **changes: Any) -> Spec:
    """Return a spec for loopback; `changes` are tables such as `image={"size": 64}`."""
    tables: dict[str, dict[str, Any]] = {
        "input": {"urls": str(urls), "caption_column": "caption"},
        "http": {
            "allow_private_addresses": True,
            "robots": "ignore",
            "per_domain": 0,
            "backoff_s": 0.01,
            "concurrency": 32,
        },
        "image": {"size": 64},
        "output": {"path": str(path), "samples_per_shard": 50},
    }
    engine = changes.pop("engine", {"threads": 2})
    for name, table in changes.items():
        tables.setdefault(name, {}).update(table)
    return parse_spec({"fetch": tables, "engine": engine})


def undisturbed(
    folder: Path, origin: Origin, names: Iterable[str], spec_of: Callable[[Path, Path], Spec]
) -> tuple[Path, dict[str, str]]:
    """Return a list of images of an origin, and what one run makes of it; `spec_of` takes list and output."""
    urls = write_list(folder / "list.parquet", [origin.url(name) for name in names])
    turbo_fetch.run(spec_of(urls, folder / "out"))
    return urls, content_hashes(folder / "out")


def start(spec: Spec, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `turbo-fetch run` on the spec as a user would, in a process group of its own."""
    path = folder / "job.toml"
    path.write_text(dump_spec(spec))
    return processes.start(
        [sys.executable, "-m", "turbo_fetch", "run", str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def ledger(output: Path) -> list[dict[str, Any]]:
    """Return the ledger rows of all shards, in shard order."""
    return [
        row
        for path in sorted(output.glob(".turbo-fetch/ledger/*.ledger"))
        for row in pq.read_table(path).to_pylist()
    ]


def manifest(output: Path) -> list[dict[str, Any]]:
    """Return the commit records of all shards, without the hash of their own content."""
    records = map(json.loads, (output / ".turbo-fetch/manifest").read_text().splitlines())
    return [{name: value for name, value in record.items() if name != "sha256"} for record in records]


def content_hashes(output: Path) -> dict[str, str]:
    """Return the sha256 of every file that must not depend on how a run went."""
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file()
        and not path.name.endswith("_stats.json")
        and path.name not in {"README.md", "croissant.json", "report.html"}
        and ".turbo-fetch" not in path.parts
    }


def wait_for_hits(process: subprocess.Popen[str], origin: Origin, more: int) -> None:
    """Return when the origin has had so many more requests, or the run is over."""
    hits = origin.hits.total() + more
    processes.wait_until(
        f"{more} more requests", lambda: origin.hits.total() >= hits or process.poll() is not None, process
    )


@contextmanager
def amid(process: subprocess.Popen[str], origin: Origin, more: int) -> Iterator[None]:
    """Begin the block when the origin has had so many more requests, and answer no later one before it ends.

    A run of more rows is amid its work in the block, and cannot be over, however slow the test is. One that gets a
    signal there takes note of it some time later: its end has to be waited for in the block too. Requests wait for the
    block, and may have deadlines.
    """
    with origin.holding_after(more) as last:
        processes.wait_until(f"{more} more requests", lambda: len(origin.received) >= last, process)
        yield


@contextmanager
def waiting_for(workers: int, origin: Origin) -> Iterator[ProgressListener]:
    """Have the origin answer when so many workers of a run are there; yields the listener of that run.

    One that came when the others are through would have no part in it. Requests wait, and may have deadlines.
    """
    with ExitStack() as holding:
        holding.enter_context(origin.holding_after(0))
        yield _Roll(workers, holding.close)


class _Roll(ProgressListener):
    """Calls something when it has heard of so many workers."""

    def __init__(self, workers: int, complete: Callable[[], None]) -> None:
        self._missing = set(range(workers))
        self._complete = complete

    def add(self, worker: int, tally: Tally) -> None:
        self._missing.discard(worker)
        if not self._missing:
            self._complete()


def asks(process: subprocess.Popen[str], origin: Origin) -> bool:
    """Return whether a run on this machine has a connection to the origin now."""
    for each in processes.descendants(process):
        with suppress(psutil.Error):
            if any([*one.raddr][1:] == [origin.port] for one in each.net_connections("tcp")):
                return True
    return False


class Silent:
    """Progress that nobody sees; may ask to stop after some rows."""

    def __init__(self, stop: StopRequest | None = None, after: int | None = None) -> None:
        self.rows = 0
        self._stop = stop
        self._after = after

    def advance(self, rows: int) -> None:
        self.rows += rows
        if self._stop is not None and self._after is not None and self.rows >= self._after:
            self._stop.ask()

    def refresh(self) -> None:
        """See Progress."""

    def note(self, text: str) -> None:
        """See Progress."""
