"""The worker of a run, started before typer reads the command line: what that imports takes half as long as a worker.

Whatever is doubtful starts none: the command does so itself once it knows that it needs one, and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from turbo_fetch.errors import SpecError
from turbo_fetch.runners.processes import start_ahead


def start_for(arguments: Sequence[str]) -> None:
    """Start a worker if the arguments are those of a run that fetches on this machine; `none_left_ahead` ends it."""
    if arguments[:1] == ["run"] and _fetches_here(arguments[1:]):
        start_ahead(1)


def _fetches_here(arguments: Sequence[str]) -> bool:
    """Whether a spec, before it is validated, has a fetch stage for this machine."""
    files, overrides = [], []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument == "--set" and left:
            overrides.append(left.pop(0))
        elif argument.startswith("--set="):
            overrides.append(argument.removeprefix("--set="))
        elif not argument.startswith("-"):
            files.append(Path(argument))
        elif argument not in {"-q", "--quiet"}:
            return False
    from turbo_fetch.spec.toml import overridden, parsed

    try:
        # What a pipe brings can be read once.
        if len(files) != 1 or not files[0].is_file():
            return False
        tables = overridden(parsed(files[0].read_bytes(), str(files[0])), overrides)
    except (OSError, SpecError):
        return False
    engine = tables.get("engine", {})
    return "fetch" in tables and isinstance(engine, dict) and engine.get("kind", "local") == "local"
