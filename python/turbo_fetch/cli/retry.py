"""`turbo-fetch retry`: only the rows whose failure may pass."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from turbo_fetch.cli.run import Overrides
from turbo_fetch.cli.usage import Json, Quiet

Place = Annotated[
    str,
    typer.Argument(
        help="A spec (a .toml file), or a dataset: a folder or fsspec URL.", metavar="SPEC_OR_DATASET"
    ),
]


def retry(place: Place, overrides: Overrides = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Retry rows with temporary failures (timeouts, 5xx, 429, DNS …), and merge them into the dataset.

    Everything else stays the same, byte for byte. Only shards with such rows are rewritten. It runs and requests as the
    spec of the run says, or the one given, with changes such as `--set fetch.http.timeout_s=30` or
    `--set engine.kind=local`.
    """
    from turbo_fetch.cli.usage import load_dataset_spec, show
    from turbo_fetch.maintenance.retry import retry as retry_dataset
    from turbo_fetch.progress.display import Display
    from turbo_fetch.startup import without_pandas
    from turbo_fetch.stop import stop_on_signals

    without_pandas()
    spec = load_dataset_spec(place, overrides or ())
    with Display(sys.stderr, quiet=quiet) as display, stop_on_signals(display.note) as stop:
        result = retry_dataset(spec, display, stop)
    show(result, as_json)
