"""`turbo-fetch generate`: pictures from a model and prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer


def generate(
    model: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time
        typer.Argument(
            help="A diffusers folder or hub id; with --from, that of the picture.", metavar="MODEL"
        ),
    ] = None,
    prompts: Annotated[
        Optional[list[str]],  # noqa: UP045 - as above
        typer.Argument(help="What the pictures show; each one in quotes.", metavar="PROMPT…"),
    ] = None,
    settings: Annotated[
        Optional[list[str]],  # noqa: UP045 - as above
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="A key of [generate]: `-s steps=30 -s scheduler=euler_a`.",
        ),
    ] = None,
    prompts_from: Annotated[
        Optional[Path],  # noqa: UP045 - as above
        typer.Option("--prompts", metavar="FILE", help="A text file with one prompt per line."),
    ] = None,
    picture: Annotated[
        Optional[Path],  # noqa: UP045 - as above
        typer.Option("--from", metavar="PNG", help="Make what this picture of turbo-fetch shows again."),
    ] = None,
    images: Annotated[int, typer.Option("--images", "-n", help="Pictures per prompt.")] = 4,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the pictures.")] = "pictures",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the summary.")] = False,
) -> None:
    """Make pictures from prompts; run it again to go on where it stopped.

    Every picture carries its settings and can be made again: `turbo-fetch generate --from pictures/00000-000.png`.
    Keys for --set: scheduler (ddim, pndm, plms, euler, euler_a, heun, lms, dpm++2m, dpm++2m_karras, unipc, ddpm,
    auto), steps, guidance, negative, seed, width, height, batch_size, precision, fixed_code, grid, lora, lora_scale.
    """
    import sys

    from turbo_fetch import stages
    from turbo_fetch.errors import SpecError
    from turbo_fetch.progress.display import Display
    from turbo_fetch.spec.specfile import parse_spec
    from turbo_fetch.spec.toml import overridden

    table: dict[str, Any] = {"images": images, "output": output}
    if picture is not None:
        table |= {"images": 1, "grid": False, **_made_with(picture)}
    if model is not None:
        table["model"] = model
    if "model" not in table:
        raise SpecError("no MODEL; expected a diffusers folder or a hub id, or --from PNG")
    words = prompts_from if prompts_from is not None else prompts
    if words:
        table["prompts"] = str(words) if isinstance(words, Path) else words
    if "prompts" not in table:
        raise SpecError("no PROMPT; expected one or more in quotes, or --prompts FILE")
    table = overridden(table, settings or ())
    spec = parse_spec({"generate": table}, "turbo-fetch generate")
    with Display(sys.stderr, quiet=quiet) as display:
        summary = stages.run(spec, display)
    typer.echo(summary.text())


def _made_with(picture: Path) -> dict[str, Any]:
    """Return the keys of `[generate]` that make a picture again."""
    from dataclasses import asdict

    from turbo_fetch.dreambooth.settings import settings_in
    from turbo_fetch.errors import InputError

    try:
        content = picture.read_bytes()
    except OSError as error:
        raise InputError(f"--from {picture}: cannot be read: {error.strerror}") from error
    facts = asdict(settings_in(content, str(picture)))
    prompt = facts.pop("prompt")
    kept = {name: value for name, value in facts.items() if value is not None and not name.endswith("_hash")}
    return {"prompts": [prompt], **kept}
