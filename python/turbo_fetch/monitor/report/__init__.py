"""`report.html`: one page with all that there is to say of a dataset, which needs no network to be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer
from typing import Final

from turbo_fetch.dataset import names
from turbo_fetch.dataset.manifest import read_manifest
from turbo_fetch.errors import Interrupted
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import TrackSpec
from turbo_fetch.storage import Storage

PREPARED_AFTER_S: Final = 1.0
"""By then the workers have begun; before, every import would delay them."""


def write_report(storage: Storage) -> None:
    """Write the report of the dataset at `storage` into it.

    Raises InputError if there is none, OutputError or DatasetError if it cannot be read or written.
    """
    from turbo_fetch.monitor.report.material import gather
    from turbo_fetch.monitor.report.page import render

    storage.write_bytes(names.REPORT, render(gather(storage)))


@contextmanager
def reported(track: TrackSpec, storage: Storage, listener: ProgressListener) -> Iterator[None]:
    """Write the report when the context ends well or is interrupted, if the spec wants one.

    A report that fails is told, and hurts nothing else. What it needs is imported meanwhile, while this process waits
    for its workers.
    """
    ahead = Timer(PREPARED_AFTER_S, _import_ahead)
    ahead.daemon = True
    if track.report:
        ahead.start()
    try:
        yield
    except Interrupted:
        _try_to_write(track, storage, listener)
        raise
    finally:
        ahead.cancel()
    _try_to_write(track, storage, listener)


def _import_ahead() -> None:
    # Whoever writes the report meets the same error, and tells it.
    with suppress(ImportError):
        import pyarrow.compute as pc

        import turbo_fetch.monitor.report.material
        import turbo_fetch.monitor.report.page  # noqa: F401

        # It may be a late module, which whoever asks for something of it executes.
        pc.equal  # noqa: B018


def _try_to_write(track: TrackSpec, storage: Storage, listener: ProgressListener) -> None:
    if not track.report or next(read_manifest(storage), None) is None:
        return
    try:
        write_report(storage)
    # The dataset is done; whatever an image or a file does to its report must not spoil that.
    except Exception as error:
        listener.note(f"{names.REPORT} could not be written: {type(error).__name__}: {error}")
