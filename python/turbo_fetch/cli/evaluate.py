"""`turbo-fetch evaluate`: score the models of a spec, and find the best step of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from turbo_fetch.cli.usage import load_job


def evaluate(
    spec: Annotated[
        Path, typer.Argument(help="Spec file (TOML) with [train], [evaluate] or both.", metavar="SPEC.TOML")
    ],
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it at run time
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="A key of [evaluate]: `-s images=2 -s prompts=paper-live`.",
        ),
    ] = None,
    output: Annotated[
        Optional[str],  # noqa: UP045 - as above
        typer.Option("--output", "-o", help="Folder for images and scores, instead of evaluate.output."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")] = False,
) -> None:
    """Score the models that SPEC.TOML names or trains, and say which step is best; no other stage runs.

    It follows the protocol of the DreamBooth paper: DINO and CLIP-I are the similarity to the real images, CLIP-T to
    the prompt, PRES that of the class to the subject, DIV the diversity. Run it again to resume where it stopped. It
    can run during a training, on the existing checkpoints.

    Without access to a hub, use `-s dino=efficientnet-lite0 -s 'metrics=["dino", "pres", "div"]'`, or local folders
    for `dino` and `clip`.
    """
    import sys

    from turbo_fetch import stages
    from turbo_fetch.progress.display import Display
    from turbo_fetch.spec import EvaluateSpec

    overrides = [f"evaluate.{setting}" for setting in settings or ()]
    if output is not None:
        overrides.append(f"evaluate.output={output}")
    loaded = load_job(spec, overrides)
    if loaded.evaluate is None:
        # [train] alone says all that is needed.
        loaded = loaded.model_copy(update={"evaluate": EvaluateSpec()})
    with Display(sys.stderr, quiet=quiet) as display:
        summary = stages.run(loaded, display, names=("evaluate",))
    typer.echo(summary.text())
