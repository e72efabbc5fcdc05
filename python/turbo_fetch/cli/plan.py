"""`turbo-fetch plan`: estimate a run."""

from __future__ import annotations

from turbo_fetch.cli.run import Overrides, SpecPath
from turbo_fetch.cli.usage import Json, load_job, show


def plan(spec: SpecPath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show rows, shards and hosts, and estimate time and size, without sending a request to any host of the list."""
    from turbo_fetch.startup import importing, with_few_threads, without_pandas

    loaded = load_job(spec, overrides)
    with importing():
        without_pandas()
        with_few_threads()
        from turbo_fetch.stages.plan import plan_run
    show(plan_run(loaded), as_json)
