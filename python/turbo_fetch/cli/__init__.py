"""The command line. Workers take longest to start, so what will need one starts it before it reads its arguments."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from turbo_fetch.cli.failure import no_traceback
from turbo_fetch.cli.streams import safe_streams
from turbo_fetch.runners.processes import end_ahead, start_ahead
from turbo_fetch.startup import importing, without_plugins


def main() -> None:
    """Run the command line."""
    with safe_streams(), no_traceback(), _worker_ahead(sys.argv[1:]):
        without_plugins()
        with importing():
            from turbo_fetch.cli.commands import app
        app()


@contextmanager
def _worker_ahead(arguments: Sequence[str]) -> Iterator[None]:
    """Start a worker if the arguments look as if one were needed; end those that nobody came to need."""
    try:
        if will_fetch(arguments):
            start_ahead(1)
        yield
    finally:
        end_ahead()


def will_fetch(arguments: Sequence[str]) -> bool:
    """Guess from arguments whether they run a fetch stage on this machine; if they are wrong, others say so."""
    match arguments:
        case ["img2dataset", *options]:
            names = {option.lstrip("-").partition("=")[0].replace("-", "_") for option in options}
            return "url_list" in names and not names & {"help", "h", "print_spec"}
        case ["run", *rest] if not {"-h", "--help"} & {*rest}:
            return any(_fetches_here(Path(each)) for each in rest if each.endswith(".toml"))
    return False


def _fetches_here(spec: Path) -> bool:
    try:
        tables = tomllib.loads(spec.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    engine = tables.get("engine", {})
    return "fetch" in tables and isinstance(engine, dict) and engine.get("kind", "local") == "local"
