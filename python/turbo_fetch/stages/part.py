"""The fetch stage of one of several runs that make one dataset side by side, as the tasks of a job array do.

Each has the lease on a part of the shards, a work folder of its own, and publishes straight into the dataset; what is
committed are the commit records. The last one to end its part does, as a run of the whole, what comes after all shards.
"""

from __future__ import annotations

import shutil
import time

from turbo_fetch import __version__
from turbo_fetch.dataset import names
from turbo_fetch.dataset.job import Dataset
from turbo_fetch.dataset.lease import are_complete
from turbo_fetch.dataset.lock import locked
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import OutputHeld, SpecError
from turbo_fetch.plan.part import Part
from turbo_fetch.plan.sharder import Plan
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.progress.summary import Summary
from turbo_fetch.runners.local import LocalRunner
from turbo_fetch.spec import FetchSpec, Spec
from turbo_fetch.stages import fetch as whole
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage.disk import sync_one


def run(spec: Spec, listener: ProgressListener, stop: StopRequest) -> Summary:
    """Run the part of `[fetch]` that `engine.shards` names; return its account, or that of all if it was the last.

    Raises what a run of the whole raises.
    """
    fetch = spec.fetch
    assert fetch is not None
    assert spec.engine.shards is not None
    if fetch.output.if_exists != "resume":
        raise SpecError(
            f'engine.shards = "{spec.engine.shards}" and fetch.output.if_exists = "{fetch.output.if_exists}": other '
            'runs write there at the same time; expected "resume"'
        )
    part = Part.of(spec.engine.shards)
    spec = spec.model_copy(update={"engine": spec.engine.model_copy(update={"shards": None})})
    summary, is_last = _run_part(spec, fetch, part, listener, stop)
    if not is_last:
        return summary
    try:
        of_all = whole.run(spec, listener, stop)
    except OutputHeld:
        listener.note("another part has ended at the same time, and does what comes after the last shard")
        return summary
    of_all.run_rows += summary.run_rows
    of_all.downloaded_bytes += summary.downloaded_bytes
    of_all.wall_s += summary.wall_s
    return of_all


def _run_part(
    spec: Spec, fetch: FetchSpec, part: Part, listener: ProgressListener, stop: StopRequest
) -> tuple[Summary, bool]:
    """Run a part; return its account, and whether all parts are complete."""
    started_s = time.monotonic()
    plan = whole.checked_plan(fetch)
    outer = open_place(fetch.output.path, fetch.output.spool)
    fetch = part.share(fetch, str(names.part_work(outer.work, part.scope)))
    storage = open_place(fetch.output.path, fetch.output.spool)
    summary, guard = Summary(storage.url), whole.OutageGuard(stop, fetch.http.network_patience_s)
    with (
        guard.explaining(lambda: whole.how_to_resume(summary)),
        locked(storage, listener.note, stop, part.scope) as lease,
    ):
        with Dataset.open(storage, spec, plan.fingerprint, __version__, part) as dataset:
            account = whole.Account(dataset, summary, listener, _Share(plan, part), guard)
            known = whole.look_ahead(fetch, plan, dataset, storage, listener, stop)
            runner = LocalRunner(fetch, spec.engine, account, stop)
            whole.make_shards(runner, account, plan, dataset, part.skipped(dataset.committed), known)
        lease.complete()
        storage.flush()
        # All of it is this part's, and is in the dataset now.
        storage.check_fence()
        shutil.rmtree(storage.work.parent)
        sync_one(outer.work)
    summary.wall_s = time.monotonic() - started_s
    return summary, are_complete(storage, part.all_scopes)


class _Share:
    """How many rows a part has, about: a Total."""

    def __init__(self, plan: Plan, part: Part) -> None:
        self._plan, self._part = plan, part

    def total_rows(self) -> tuple[int | None, bool]:
        """See Total."""
        rows, _ = self._plan.total_rows()
        return None if rows is None else rows // self._part.count, True
