"""`turbo-fetch run`: all stages of a spec."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from turbo_fetch.cli.completion import spec_keys
from turbo_fetch.cli.usage import load_job

SpecPath = Annotated[Path, typer.Argument(help="The spec, a TOML file.", metavar="SPEC.TOML")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key: `--set fetch.image.size=512`.",
        autocompletion=spec_keys,
    ),
]


def run(
    spec: SpecPath,
    overrides: Overrides = None,
    shards: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--shards", metavar="I/N", help="Make one of N parts only, from 0: `--shards 0/8`."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")] = False,
) -> None:
    """Run the job that SPEC.TOML describes; run it again to resume where it stopped.

    Exit codes: 0 done; 1 a failure that needs your attention; 2 bad spec or usage; 75 another run has the output, or
    took it over; 130 interrupted, resumable by the same command.
    """
    from turbo_fetch.runners.processes import start_ahead
    from turbo_fetch.startup import importing, with_few_threads, with_late_modules, without_pandas

    with importing():
        part = [] if shards is None else [f"engine.shards={shards}"]
        loaded = load_job(spec, [*(overrides or ()), *part])
        if loaded.fetch is not None and loaded.engine.kind == "local":
            from turbo_fetch.runners.cpu_allocation import available_cores, worker_count

            start_ahead(worker_count(loaded.engine, available_cores()))
        if not loaded.trains:
            without_pandas()
            with_few_threads()
            with_late_modules()
        # These import pyarrow, while the workers do so too.
        from turbo_fetch import stages
        from turbo_fetch.errors import TooFewSamples
        from turbo_fetch.progress.display import Display

    try:
        with Display(sys.stderr, quiet=quiet) as display:
            summary = stages.run(loaded, display)
        if loaded.fetch is not None:
            summary.fetch.check(loaded.fetch.min_success)
    except TooFewSamples as error:
        typer.echo(error.report)
        raise
    typer.echo(summary.text())
