"""`turbo-fetch plan`: what a run would do."""

from __future__ import annotations

from turbo_fetch.cli.failure import clear_failures
from turbo_fetch.cli.run import Overrides, SpecPath
from turbo_fetch.cli.usage import Json, load_job


def plan(spec: SpecPath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show rows, shards, hosts, and estimates of time and size, without a request to any host of the list."""
    from turbo_fetch.care.plan_report import plan_run
    from turbo_fetch.cli.usage import show
    from turbo_fetch.lean import without_pandas

    with clear_failures():
        without_pandas()
        show(plan_run(load_job(spec, overrides)), as_json)
