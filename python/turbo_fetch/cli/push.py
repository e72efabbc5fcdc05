"""`turbo-fetch push`: a finished dataset onto the Hugging Face Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from turbo_fetch.cli.usage import Json, Quiet


def push(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.", metavar="DATASET")],
    destination: Annotated[
        str,
        typer.Argument(help="hf://datasets/owner/name, made, private, if it is not there.", metavar="URL"),
    ],
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check a dataset and bring it to the Hugging Face Hub, with its card, ledger and manifest.

    What the Hub has already is not sent again, so run the same command again after an interruption, or when the
    dataset has changed.
    """
    from turbo_fetch.cli.progress import row_progress
    from turbo_fetch.cli.usage import show
    from turbo_fetch.dataset.reader import open_dataset
    from turbo_fetch.maintenance.push import push as bring
    from turbo_fetch.startup import without_pandas

    without_pandas()
    rows = sum(shard.rows for shard in open_dataset(dataset).shards)
    with row_progress("pushing", rows, quiet) as (progress, stop):
        result = bring(dataset, destination, progress, stop)
    show(result, as_json)
