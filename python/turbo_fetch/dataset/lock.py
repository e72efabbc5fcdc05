"""The lock of an output: no two processes of this machine change one dataset at the same time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from turbo_fetch.dataset.description import refuse_old_layout
from turbo_fetch.dataset.names import LOCK
from turbo_fetch.errors import OutputExists
from turbo_fetch.storage import Storage
from turbo_fetch.storage.failures import explained


@contextmanager
def locked(storage: Storage) -> Iterator[None]:
    """Hold the lock of an output as `held` does, unless it has the layout of an earlier version: InputError then."""
    refuse_old_layout(storage)
    with held(storage):
        yield


@contextmanager
def held(storage: Storage) -> Iterator[None]:
    """Hold the lock of the work folder while the context lasts; OutputExists if another process holds it.

    Raises OutputError if this user may not write there.
    """
    path = storage.make_work() / LOCK
    with explained(str(path)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _descriptors.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise OutputExists(
                f"{storage.url}: another run (process {holder}) is working on this output; "
                "wait for it, or stop it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        _descriptors.discard(descriptor)
        os.close(descriptor)


_descriptors: Final[set[int]] = set()
"""Of the locks that this process holds."""


def _let_go() -> None:
    """Close them in a child: while one of them is open there, the lock outlives the process that took it."""
    while _descriptors:
        os.close(_descriptors.pop())


os.register_at_fork(after_in_child=_let_go)
