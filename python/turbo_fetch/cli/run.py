"""`turbo-fetch run`: all stages of a spec."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from turbo_fetch.cli.failure import clear_failures

SpecPath = Annotated[Path, typer.Argument(help="The spec, a TOML file.", metavar="SPEC.TOML")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it at run time
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: `--set fetch.image.size=512`."),
]


def run(
    spec: SpecPath,
    overrides: Overrides = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")] = False,
) -> None:
    """Run the job that SPEC.TOML describes; run it again to go on where it stopped.

    Exit codes: 0 done; 1 done with a failure that you must see; 2 bad spec or usage; 130 interrupted, and
    resumable by the same command.
    """
    from turbo_fetch import stages
    from turbo_fetch.display import Display
    from turbo_fetch.lean import without_pandas
    from turbo_fetch.specfile import load_spec

    with clear_failures():
        loaded = load_spec(spec, overrides or ())
        if not loaded.trains:
            without_pandas()
        with Display(sys.stderr, quiet=quiet) as display:
            summary = stages.run(loaded, display)
    typer.echo(summary.text())
