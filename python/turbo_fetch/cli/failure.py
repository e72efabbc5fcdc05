"""How a command fails: one clear message and the exit code of the error, never a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from turbo_fetch.errors import TurboFetchError, shortage
from turbo_fetch.redaction import redact

INTERRUPTED: Final = 130


@contextmanager
def clear_failures() -> Iterator[None]:
    """Turn what ends a command into its message on standard error and its exit code."""
    try:
        yield
    except TurboFetchError as error:
        _end(str(error), error.exit_code, error)
    except KeyboardInterrupt as error:
        _end("interrupted", INTERRUPTED, error)
    except OSError as error:
        _end(_told(error), 1, error)
    except RuntimeError as error:
        if (reason := shortage(error)) is None:
            raise
        _end(reason, 1, error)
    except MemoryError as error:
        _end("out of memory; use fewer workers (engine.workers) or a smaller fetch.http.memory_mb", 1, error)


@contextmanager
def no_traceback() -> Iterator[None]:
    """Turn what nobody has foreseen into a message; the traceback goes into a file."""
    try:
        with clear_failures():
            yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        where = _record(error)
        _end(f"a bug in turbo-fetch: {reason}. Please report it with the contents of {where}", 1, error)


def _told(error: OSError) -> str:
    place = error.filename if isinstance(error.filename, str) else None
    # Those that libraries raise have nothing but a text, which may be a name alone.
    reason = shortage(error) or error.strerror or f"{type(error).__name__}: {error}"
    if isinstance(error, FileNotFoundError) and place is None and not _is_in_a_folder():
        reason = "the folder in which this command was given is gone; expected one that is there"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        reason += "; free some space and run it again"
    return f"{os.path.abspath(place)}: {reason}" if place else reason  # noqa: PTH100


def _is_in_a_folder() -> bool:
    try:
        return bool(os.getcwd())  # noqa: PTH109
    except FileNotFoundError:
        return False


def _record(error: Exception) -> str:
    import tempfile
    import traceback

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="turbo-fetch-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(redact("".join(traceback.format_exception(error))))
    except OSError as problem:
        return f"the log, which could not be written ({problem.strerror})"
    return file.name


def _end(message: str, exit_code: int, error: BaseException) -> NoReturn:
    text = redact(f"turbo-fetch: {message}")
    is_shown_red = exit_code != INTERRUPTED and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    sys.stderr.write(f"\033[31m{text}\033[0m\n" if is_shown_red else f"{text}\n")
    raise SystemExit(exit_code) from error
