"""`report.html`: one page with all that there is to say of a dataset, which needs no network to be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from turbo_fetch.errors import Interrupted
from turbo_fetch.monitor.records import REPORT
from turbo_fetch.spec import TrackSpec
from turbo_fetch.storage import Storage
from turbo_fetch.watcher import Watcher


def write_report(storage: Storage) -> None:
    """Write the report of the dataset at `storage` into it.

    Raises InputError if there is none, OutputError or DatasetError if it cannot be read or written.
    """
    from turbo_fetch.monitor.report.material import gather
    from turbo_fetch.monitor.report.page import render

    storage.write_bytes(REPORT, render(gather(storage)))


@contextmanager
def reported(track: TrackSpec, storage: Storage, watcher: Watcher) -> Iterator[None]:
    """Write the report when the context ends well or is interrupted, if the spec wants one.

    A report that fails is told, and hurts nothing else.
    """
    try:
        yield
    except Interrupted:
        _try_to_write(track, storage, watcher)
        raise
    _try_to_write(track, storage, watcher)


def _try_to_write(track: TrackSpec, storage: Storage, watcher: Watcher) -> None:
    if not track.report or not storage.exists("manifest.jsonl") or not storage.read_bytes("manifest.jsonl"):
        return
    try:
        write_report(storage)
    # The dataset is done; whatever a picture or a file does to its report must not spoil that.
    except Exception as error:
        watcher.note(f"{REPORT} could not be written: {type(error).__name__}: {error}")
