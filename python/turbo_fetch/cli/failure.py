"""How a command fails: one clear message and the exit code of the error, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from turbo_fetch.errors import TurboFetchError
from turbo_fetch.redaction import redact


@contextmanager
def clear_failures() -> Iterator[None]:
    """Turn a TurboFetchError into its message on standard error and its exit code."""
    try:
        yield
    except TurboFetchError as error:
        typer.secho(
            redact(f"turbo-fetch: {error}"), fg=typer.colors.RED if error.exit_code != 130 else None, err=True
        )
        raise SystemExit(error.exit_code) from error
