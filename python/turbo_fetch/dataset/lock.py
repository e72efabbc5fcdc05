"""The lock of an output: no two runs, wherever they are, change one dataset at the same time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from turbo_fetch.dataset.description import refuse_old_layout
from turbo_fetch.dataset.lease import WHOLE, Lease, behind_lease, kept, take
from turbo_fetch.dataset.leftovers import discard_leftovers, discard_staged
from turbo_fetch.errors import OutputError, TurboFetchError
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage import Storage


def _tell(text: str) -> None:
    sys.stderr.write(f"turbo-fetch: {text}\n")


@contextmanager
def locked(
    storage: Storage,
    note: Callable[[str], None] = _tell,
    stop: StopRequest | None = None,
    scope: str = WHOLE,
) -> Iterator[Lease]:
    """Hold the lock of an output as `held` does, unless it has the layout of an earlier version: InputError then."""
    refuse_old_layout(storage)
    with held(storage, note, stop, scope) as lease:
        yield lease


@contextmanager
def held(
    storage: Storage,
    note: Callable[[str], None] = _tell,
    stop: StopRequest | None = None,
    scope: str = WHOLE,
) -> Iterator[Lease]:
    """Hold the lease on an output, or a part of it, while the context lasts; every change to it then checks it.

    What killed commands left unfinished there is deleted. If the lease is lost, `stop` is asked to stop, and
    OutputHeld is raised. Raises what `lease.take` raises.
    """
    storage.make_work()
    lease = take(storage, scope, note, stop)
    kept[storage.url] = lease
    behind_lease(storage)
    try:
        discard_leftovers(storage, is_whole=scope == WHOLE)
        yield lease
        storage.flush()
        lease.check()
    except (TurboFetchError, OSError) as error:
        # Files that are gone are another run's, too, where it took over.
        with suppress(TurboFetchError):
            lease.check()
        if lease.loss is not None:
            raise lease.loss from error
        raise
    finally:
        # What waits after a failure is kept here, too; the failure says more.
        with suppress(TurboFetchError):
            storage.flush()
        discard_staged(storage)
        storage.fence, storage.confirm, storage.holder = None, None, ""
        kept.pop(storage.url, None)
        # A place that cannot be written to any more says so where it matters; the lease then ends by its silence.
        with suppress(OutputError):
            lease.release()
