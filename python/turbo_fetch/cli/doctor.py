"""`turbo-fetch doctor`: is this machine fit for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    output: Annotated[
        Path, typer.Option(help="Folder that the dataset would go to, for the room on its disk.")
    ] = Path(),
    no_network: Annotated[bool, typer.Option("--no-network", help="Do not measure the resolver.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Look at this machine: resolver, file limits, cores, memory, disk, versions, accelerator, with advice.

    The resolver is asked for 15 well-known names. Exits with 0 whatever it finds.
    """
    import orjson
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from turbo_fetch.monitor.doctor.accelerator import probe
    from turbo_fetch.monitor.doctor.advice import findings
    from turbo_fetch.monitor.doctor.probe import measure, measure_lookups

    machine = measure(output, None if no_network else measure_lookups())
    accelerator = probe()
    found = list(findings(machine, accelerator))
    if as_json:
        content = {"machine": machine, "accelerator": accelerator, "findings": found}
        typer.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
        return
    colours = {"good": "green", "warning": "yellow", "bad": "red"}
    table = Table.grid(padding=(0, 2))
    for finding in found:
        words = Text(finding.found)
        if finding.advice:
            words.append(f"\n→ {finding.advice}", style="bold")
        table.add_row(Text(finding.grade, style=colours[finding.grade]), finding.name, words)
    versions = {**machine.versions, **accelerator.versions}
    table.add_row(
        "", "versions", f"Python {machine.python}, " + ", ".join(f"{k} {v}" for k, v in versions.items())
    )
    table.add_row("", "system", machine.system)
    Console(highlight=False).print(table)
