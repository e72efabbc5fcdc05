"""`turbo-fetch verify`: a dataset checked against what it says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from turbo_fetch.cli.usage import EngineOverrides, Json, Quiet
from turbo_fetch.spec.bounds import MOST_WORKERS

if TYPE_CHECKING:
    from turbo_fetch.maintenance.shard_check import Level


def verify(
    dataset: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.", metavar="DATASET")],
    quick: Annotated[bool, typer.Option("--quick", help="Check only names, sizes and row counts.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every image.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove damaged shards, so that the next run rebuilds them.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, max=MOST_WORKERS, help="Processes, here or on a cluster; 0: one per core.")
    ] = 0,
    overrides: EngineOverrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check the files, hashes, row counts and images of a dataset against its manifest and metadata.

    Reports every problem. Exit codes: 0 no problem; 1 problems; 2 no dataset.
    """
    from turbo_fetch.cli.progress import row_progress
    from turbo_fetch.cli.usage import load_engine, show
    from turbo_fetch.dataset.reader import open_dataset
    from turbo_fetch.errors import SpecError
    from turbo_fetch.maintenance import verify as verification
    from turbo_fetch.progress.summary import counted
    from turbo_fetch.startup import without_pandas

    without_pandas()
    if quick and deep:
        raise SpecError("--quick --deep: expected at most one of them")
    engine = load_engine(overrides, workers)
    level: Level = "quick" if quick else "deep" if deep else "full"
    rows = sum(shard.rows for shard in open_dataset(dataset).shards)
    with row_progress("verifying", rows, quiet) as (progress, stop):
        result = verification.verify(dataset, level, engine, progress, stop)
    show(result, as_json)
    if repair:
        count = verification.repair(result)
        removed = (
            f"{counted(count, 'shard')} removed; run the spec again to rebuild them"
            if count
            else "the manifest"
        )
        typer.echo(f"repaired  {removed}", err=as_json)
    if result.problems:
        raise typer.Exit(1)
