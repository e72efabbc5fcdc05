"""Options that several commands share, and how their results are shown."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol, cast, get_args

import typer

if TYPE_CHECKING:
    from turbo_fetch.spec import OutputFormat

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Shown(Protocol):
    """A result that a person can read; also a dataclass."""

    def text(self) -> str:
        """Return it as lines."""


def show(result: Shown, as_json: bool) -> None:
    """Print a result, a dataclass with a method `text`."""
    typer.echo(json.dumps(_plain(result), default=str) if as_json else result.text())


def _plain(value: Any) -> Any:
    """Return dataclasses, at any depth, as dictionaries."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def checked_format(name: str) -> OutputFormat:
    """Return the output format of this name; raises SpecError that names the nearest one."""
    from turbo_fetch.errors import SpecError
    from turbo_fetch.spec import OutputFormat

    known = get_args(OutputFormat)
    if name in known:
        return cast(OutputFormat, name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    raise SpecError(f"--format {name!r}: unknown format; {hint}")
