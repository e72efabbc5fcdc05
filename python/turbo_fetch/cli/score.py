"""`turbo-fetch score`: what a function of yours says of a finished dataset."""

from __future__ import annotations

import sys

from turbo_fetch.cli.retry import Place
from turbo_fetch.cli.run import Overrides
from turbo_fetch.cli.usage import Json, Quiet


def score(place: Place, overrides: Overrides = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Score the images of a finished dataset by the function of `[fetch.score]`; nothing is requested.

    The columns are added shard by shard, and images for which `fetch.score.where` does not hold are dropped.
    Without the table in a spec: `--set fetch.score.function=scores.py:Looks --set 'fetch.score.columns={sharpness =
    "float32"}'`. Run the same command again after an interruption to resume.
    """
    from turbo_fetch.cli.usage import load_dataset_spec, show
    from turbo_fetch.maintenance.score import score as score_dataset
    from turbo_fetch.progress.display import Display
    from turbo_fetch.startup import without_pandas
    from turbo_fetch.stop import stop_on_signals

    without_pandas()
    spec = load_dataset_spec(place, overrides or ())
    with Display(sys.stderr, quiet=quiet) as display, stop_on_signals(display.note) as stop:
        result = score_dataset(spec, display, stop)
    show(result, as_json)
