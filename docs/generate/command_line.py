"""The reference of the command line, from its commands."""

from __future__ import annotations

import re

import typer
from typer.cli import get_docs_for_click
from typer.core import TyperGroup

from turbo_fetch.cli.commands import app
from turbo_fetch.cli.img2dataset import help_text

_CUT_SHORT = re.compile(r"^\* `([\w-]+)`: .*\.\.\.$", re.MULTILINE)
_DROP_IN = re.compile(r"(?s)(## `turbo-fetch img2dataset`\n).*?(?=\n## |\Z)")


def command_line_page() -> str:
    """Return the page."""
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    # A list of commands is cut short for narrow terminals; a page has room.
    whole = _summaries(command)
    context = typer.Context(command, info_name="turbo-fetch")
    page = get_docs_for_click(obj=command, ctx=context, name="turbo-fetch", title="Command line")
    differences = "[Coming from img2dataset](../coming-from-img2dataset.md) lists the differences."
    drop_in = f"\n{differences}\n\n```text\n{help_text()}\n```\n"
    page = _CUT_SHORT.sub(lambda found: f"* `{found[1]}`: {whole[found[1]]}", page)
    return _DROP_IN.sub(lambda found: found[1] + drop_in, page).rstrip() + "\n"


def _summaries(group: TyperGroup) -> dict[str, str]:
    """Return the first line of the help of all commands, and of their own, by name."""
    found: dict[str, str] = {}
    for name, command in group.commands.items():
        found[name] = (command.help or "").partition("\n")[0]
        if isinstance(command, TyperGroup):
            found |= _summaries(command)
    return found
