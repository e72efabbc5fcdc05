"""`turbo-fetch demo`: small demonstrations that run offline in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from turbo_fetch.spec.bounds import LARGEST_SEED

demo = typer.Typer(
    name="demo",
    help="Small demonstrations that need no network and no GPU; without a name, list them.",
    invoke_without_command=True,
    rich_markup_mode="markdown",
)


@demo.callback()
def _list(context: typer.Context) -> None:
    """Small demonstrations that need no network and no GPU; without a name, list them."""
    if context.invoked_subcommand is None:
        typer.echo(
            "turbo-fetch demo dreambooth   teach a small text-to-image model a subject from four images,\n"
            "                              and compare its images before and after (minutes)"
        )


@demo.command()
def dreambooth(
    subject: Annotated[
        str,
        typer.Option(
            "--subject", help="The subject: 'target circle', 'checked square' or 'halved triangle'."
        ),
    ] = "target circle",
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for photos, models and the sheet.")
    ] = Path("demo-dreambooth"),
    cache: Annotated[
        Path, typer.Option(envvar="XDG_CACHE_HOME", help="Where the trained toy base model is kept.")
    ] = Path("~/.cache"),
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Seed of everything random.")
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")] = False,
) -> None:
    """Teach a small text-to-image model a subject from four images, and compare before and after.

    The first time, the model is trained from scratch on simple shapes: about five minutes of one core. It then learns
    a patterned shape that it has never seen, with the same stages [prior] and [train] as any spec.
    """
    import sys

    from turbo_fetch.errors import MissingExtra, SpecError
    from turbo_fetch.progress.display import Display
    from turbo_fetch.stop import stop_on_signals

    try:
        import torch

        from turbo_fetch.dreambooth.toy import demo
        from turbo_fetch.dreambooth.toy.base import Recipe
        from turbo_fetch.dreambooth.toy.shapes import SUBJECTS
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "demo", "the demo") from error
    if subject not in SUBJECTS:
        raise SpecError(f"--subject {subject!r}: expected one of {', '.join(map(repr, SUBJECTS))}")
    # The work of a step is too small to share: threads wait for each other, on a busy machine fifty times as long.
    torch.set_num_threads(1)
    with Display(sys.stderr, quiet=quiet) as display, stop_on_signals(display.note) as stop:
        base = demo.base_in(cache.expanduser() / "turbo-fetch", Recipe(), display, stop)
        folder = output / subject.replace(" ", "-")
        report = demo.run(demo.Lesson(base, subject, folder, seed), display, stop)
    typer.echo(report.text())
