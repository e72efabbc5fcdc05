"""The commands: one module each, which imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from turbo_fetch.cli.demo import demo
from turbo_fetch.cli.doctor import doctor
from turbo_fetch.cli.evaluate import evaluate
from turbo_fetch.cli.export import export
from turbo_fetch.cli.export_model import export_model
from turbo_fetch.cli.failure import clear_failures
from turbo_fetch.cli.generate import generate
from turbo_fetch.cli.img2dataset import CONTEXT, img2dataset
from turbo_fetch.cli.init import init
from turbo_fetch.cli.ledger import ledger
from turbo_fetch.cli.migrate import migrate
from turbo_fetch.cli.plan import plan
from turbo_fetch.cli.push import push
from turbo_fetch.cli.refresh import refresh
from turbo_fetch.cli.report import report
from turbo_fetch.cli.retry import retry
from turbo_fetch.cli.run import run
from turbo_fetch.cli.schema import schema
from turbo_fetch.cli.score import score
from turbo_fetch.cli.submit import submit
from turbo_fetch.cli.verify import verify
from turbo_fetch.cli.view import view
from turbo_fetch.runners.processes import none_left_ahead


class _Commands(TyperGroup):
    """Commands whose every failure is clear."""

    def invoke(self, ctx: Any) -> Any:
        with clear_failures(), none_left_ahead():
            return super().invoke(ctx)


app = typer.Typer(
    name="turbo-fetch",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn image URL lists into training datasets, and a few images into a personalised model.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
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
    """Turn image URL lists into training datasets, and a few images into a personalised model."""


# In the order in which they are used.
app.command()(init)
app.command()(plan)
app.command()(run)
app.command()(view)
app.command()(report)
app.command()(ledger)
app.command()(retry)
app.command()(refresh)
app.command()(score)
app.command()(verify)
app.command()(export)
app.command()(push)
app.command(context_settings=CONTEXT)(img2dataset)
app.command()(submit)
app.command()(generate)
app.command()(evaluate)
app.command()(export_model)
app.command()(doctor)
app.command()(schema)
app.command()(migrate)
app.add_typer(demo, name="demo")


def called_by(arguments: Sequence[str]) -> typer.Typer:
    """Return the commands or, where one is called, it alone: typer makes all ready that there are."""
    called = [
        command
        for command in app.registered_commands
        if command.callback is not None and [command.callback.__name__.replace("_", "-")] == [*arguments[:1]]
    ]
    if not called:
        return app
    alone = copy(app)
    alone.registered_commands, alone.registered_groups = called, []
    return alone
