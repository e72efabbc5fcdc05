"""`turbo-fetch doctor`: check this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from turbo_fetch.cli.failure import clear_failures
from turbo_fetch.cli.run import Overrides
from turbo_fetch.cli.usage import load_job
from turbo_fetch.errors import MissingExtra, SpecError

if TYPE_CHECKING:
    from rich.table import Table

    from turbo_fetch.doctor.advice import Finding


def doctor(
    spec: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Argument(
            help="A spec, to check whether it would use the proxies of this machine.", metavar="SPEC.TOML"
        ),
    ] = None,
    overrides: Overrides = None,
    output: Annotated[
        Path, typer.Option(help="Folder of the dataset, to check the free space on its disk.")
    ] = Path(),
    no_network: Annotated[
        bool, typer.Option("--no-network", help="Do not measure the resolver or test proxies.")
    ] = False,
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="Say of the spec's [train] what it would use of this machine, and whether it fits.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Check this machine: resolver, proxies, file limits, cores, memory, disk, versions, accelerator, with advice.

    It looks up 15 well-known names, and requests a page of Wikipedia through each proxy. The exit code is 0 whatever
    it finds; with --train only the training is looked at, and no image or weight is read.
    """
    import orjson
    from rich.console import Console

    from turbo_fetch.doctor.accelerator import probe
    from turbo_fetch.doctor.advice import findings
    from turbo_fetch.doctor.probe import measure, measure_lookups
    from turbo_fetch.doctor.proxy import ask_through, check_proxies

    with clear_failures():
        if overrides and spec is None:
            raise SpecError(
                "--set changes a key of a spec; expected one: turbo-fetch doctor SPEC.TOML --set …"
            )
    if train:
        _show(_training(spec, overrides or ()), as_json)
        return
    with clear_failures():
        fetch = load_job(spec, overrides).fetch if spec is not None else None
    key = fetch.http.proxy if fetch is not None else None
    proxies = check_proxies(os.environ, key, spec is not None, None if no_network else ask_through)
    machine = measure(output, None if no_network else measure_lookups(), proxies)
    accelerator = probe()
    found = list(findings(machine, accelerator))
    if as_json:
        content = {"machine": machine, "accelerator": accelerator, "findings": found}
        typer.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
        return
    table = _table(found)
    versions = {**machine.versions, **accelerator.versions}
    table.add_row(
        "", "versions", f"Python {machine.python}, " + ", ".join(f"{k} {v}" for k, v in versions.items())
    )
    table.add_row("", "system", machine.system)
    Console(highlight=False).print(table)


def _training(spec: Path | None, overrides: Sequence[str]) -> list[Finding]:
    with clear_failures():
        if spec is None:
            raise SpecError(
                "--train looks at the [train] of a spec; expected one: turbo-fetch doctor --train SPEC.TOML"
            )
        job = load_job(spec, overrides)
        try:
            from turbo_fetch.dreambooth.training.requirements import training_findings
        except ModuleNotFoundError as error:
            raise MissingExtra(str(error.name), "train", "doctor --train") from error
        return list(training_findings(job))


def _show(found: list[Finding], as_json: bool) -> None:
    import orjson
    from rich.console import Console

    if as_json:
        typer.echo(orjson.dumps({"findings": found}, option=orjson.OPT_INDENT_2).decode())
        return
    Console(highlight=False).print(_table(found))


def _table(found: list[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    colours = {"good": "green", "warning": "yellow", "bad": "red"}
    table = Table.grid(padding=(0, 2))
    for finding in found:
        words = Text(finding.found)
        if finding.advice:
            words.append(f"\n→ {finding.advice}", style="bold")
        table.add_row(Text(finding.grade, style=colours[finding.grade]), finding.name, words)
    return table
