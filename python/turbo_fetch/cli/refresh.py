"""`turbo-fetch refresh`: find what has changed on the web since."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from turbo_fetch.cli.retry import Place
from turbo_fetch.cli.run import Overrides
from turbo_fetch.cli.usage import Json, Quiet


def refresh(
    place: Place,
    overrides: Overrides = None,
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Fetch changed images, and drop those that hosts now forbid to use."),
    ] = False,
    drop_gone: Annotated[
        bool, typer.Option("--drop-gone", help="With --apply: drop images that are gone.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Recheck every sample by ETag or Last-Modified, and report which are unchanged, changed, gone or refused.

    The report is `.turbo-fetch/refresh/*.refresh` in the dataset, Parquet files. Without --apply, nothing else changes.
    """
    from turbo_fetch.cli.usage import load_dataset_spec, show
    from turbo_fetch.errors import SpecError
    from turbo_fetch.maintenance.refresh import Choice
    from turbo_fetch.maintenance.refresh import refresh as refresh_dataset
    from turbo_fetch.progress.display import Display
    from turbo_fetch.startup import without_pandas
    from turbo_fetch.stop import stop_on_signals

    without_pandas()
    if drop_gone and not apply:
        raise SpecError("--drop-gone without --apply: expected both, because nothing changes without --apply")
    spec = load_dataset_spec(place, overrides or ())
    with Display(sys.stderr, quiet=quiet) as display, stop_on_signals(display.note) as stop:
        result = refresh_dataset(spec, Choice(apply, drop_gone), display, stop)
    show(result, as_json)
