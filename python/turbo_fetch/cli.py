"""The command line. Commands import what they need when they run, so that `--help` is instant."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from turbo_fetch.errors import TurboFetchError

app = typer.Typer(
    name="turbo-fetch",
    help="Image URL lists into training-ready datasets, fast, resumable and reproducible.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from turbo_fetch import __version__

        typer.echo(f"turbo-fetch {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Image URL lists into training-ready datasets, fast, resumable and reproducible."""


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="The spec, a TOML file.", metavar="SPEC.TOML")],
    overrides: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it at run time
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key: `--set fetch.image.size=512`."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")] = False,
) -> None:
    """Run the job that SPEC.TOML describes; run it again to go on where it stopped.

    Exit codes: 0 done; 1 done with a failure that you must see; 2 bad spec or usage; 130 interrupted, and
    resumable by the same command.
    """
    from turbo_fetch.lean import without_pandas

    without_pandas()
    from turbo_fetch import job
    from turbo_fetch.display import Display
    from turbo_fetch.specfile import load_spec

    try:
        loaded = load_spec(spec, overrides or ())
        with Display(sys.stderr, quiet=quiet) as display:
            summary = job.run(loaded, display)
    except TurboFetchError as error:
        _fail(error)
    typer.echo(summary.text())


@app.command()
def schema() -> None:
    """Print the JSON Schema of the spec, with which editors complete and check it."""
    from turbo_fetch.spec import Spec

    typer.echo(json.dumps(Spec.model_json_schema(), indent=2))


def _fail(error: TurboFetchError) -> NoReturn:
    typer.secho(f"turbo-fetch: {error}", fg=typer.colors.RED if error.exit_code != 130 else None, err=True)
    raise SystemExit(error.exit_code)


def main() -> None:
    """Run the command line."""
    app()
