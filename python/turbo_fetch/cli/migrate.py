"""`turbo-fetch migrate`: a dataset of an earlier version in the layout of today."""

from __future__ import annotations

from typing import Annotated

import typer

from turbo_fetch.cli.usage import Json, Quiet


def migrate(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.", metavar="DATASET")],
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Move the records of a dataset that an earlier version made (ledgers, manifest, job, spec …) to `.turbo-fetch/`.

    Samples and metadata stay as they are. Interrupted, the same command resumes where it stopped.
    """
    from turbo_fetch.cli.progress import row_progress
    from turbo_fetch.cli.usage import show
    from turbo_fetch.maintenance.migrate import migrate as migrate_dataset
    from turbo_fetch.startup import without_pandas

    without_pandas()
    with row_progress("migrating", None, quiet) as (progress, stop):
        result = migrate_dataset(dataset, progress, stop)
    show(result, as_json)
