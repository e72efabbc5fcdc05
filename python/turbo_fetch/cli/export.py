"""`turbo-fetch export`: a dataset in another format."""

from __future__ import annotations

from typing import Annotated, Final, Optional, get_args

import typer

from turbo_fetch.cli.completion import output_formats
from turbo_fetch.cli.usage import EngineOverrides, Json, Quiet, checked_format
from turbo_fetch.spec.bounds import MOST_ROWS_PER_SHARD, MOST_WORKERS
from turbo_fetch.spec.formats import OutputFormat

LARGEST_MB: Final = 1e12


def export(
    source: Annotated[str, typer.Argument(help="The dataset: a folder or fsspec URL.", metavar="SOURCE")],
    destination: Annotated[
        str, typer.Argument(help="Folder or fsspec URL of the new dataset.", metavar="DESTINATION")
    ],
    output_format: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            help=f"One of {', '.join(get_args(OutputFormat))}.",
            metavar="FORMAT",
            autocompletion=output_formats,
        ),
    ],
    samples_per_shard: Annotated[
        Optional[int],  # noqa: UP045 - typer reads it at run time
        typer.Option(
            min=1,
            max=MOST_ROWS_PER_SHARD,
            help="Cut all rows into shards of this many rows; keys are renumbered.",
        ),
    ] = None,
    max_shard_mb: Annotated[
        Optional[float],  # noqa: UP045 - typer reads it at run time
        typer.Option(
            help="Cut all rows into shards of at most this many megabytes (10^6 bytes); keys are renumbered."
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option("--merge", help="All samples in one file, DESTINATION, if the format can have that."),
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, max=MOST_WORKERS, help="Processes, here or on a cluster; 0: one per core.")
    ] = 0,
    overrides: EngineOverrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Convert a dataset to another format or other shard sizes, without fetching anything.

    Ledger, manifest and spec are copied, so that retry, refresh and verify work on the result. Run the same command
    again after an interruption to resume.
    """
    from turbo_fetch.cli.progress import row_progress
    from turbo_fetch.cli.usage import load_engine, show
    from turbo_fetch.dataset.reader import open_dataset
    from turbo_fetch.errors import SpecError
    from turbo_fetch.maintenance import export as exports
    from turbo_fetch.maintenance.merge import merge as merge_shards
    from turbo_fetch.startup import without_pandas

    without_pandas()
    known = checked_format(output_format)
    cuts = {
        "--merge": merge,
        "--samples-per-shard": samples_per_shard is not None,
        "--max-shard-mb": max_shard_mb is not None,
    }
    if len(given := [option for option, is_given in cuts.items() if is_given]) > 1:
        raise SpecError(
            f"{' with '.join(given)}: expected one of them, for each says how rows are cut into files"
        )
    if max_shard_mb is not None and not 0 < max_shard_mb < LARGEST_MB:
        raise SpecError(f"--max-shard-mb {max_shard_mb}: expected a number of megabytes above 0")
    engine = load_engine(overrides, workers)
    if merge and engine.kind != "local":
        raise SpecError(
            f"--merge with engine.kind={engine.kind}: expected one of them; one file is written by one process"
        )
    rows = sum(shard.rows for shard in open_dataset(source).shards)
    # Those whose bytes are counted are read twice.
    passes = 1 if max_shard_mb is None else 2
    with row_progress("exporting", passes * rows, quiet) as (progress, stop):
        if merge:
            show(merge_shards(source, destination, known, progress, stop), as_json)
            return
        max_bytes = None if max_shard_mb is None else int(max_shard_mb * 1_000_000)
        job = exports.Export(source, destination, known, samples_per_shard, engine, max_bytes)
        summary = exports.export(job, progress, stop)
    show(summary, as_json)
