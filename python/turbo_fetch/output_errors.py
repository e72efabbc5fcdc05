"""What goes wrong at a place of output, told so that the user knows what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from turbo_fetch.errors import OutputError, TurboFetchError

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def explained(place: str, needed_bytes: int = 0, missing_is_error: bool = True) -> Iterator[None]:
    """Turn what goes wrong at `place` into an OutputError that says so.

    Cloud clients raise exceptions of their own kinds (credentials, bucket, network), hence all are caught.
    """
    try:
        yield
    except TurboFetchError:
        raise
    except FileNotFoundError as error:
        if not missing_is_error:
            raise
        raise write_error(error, place, needed_bytes) from error
    except Exception as error:
        raise write_error(error, place, needed_bytes) from error


def write_error(error: Exception, place: str, needed_bytes: int) -> OutputError:
    """Return the OutputError for `error` when writing `needed_bytes` (0: unknown) to `place`."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL:
        needed = f", {needed_bytes:,} bytes needed" if needed_bytes else ""
        limit = "the file size limit" if number == errno.EFBIG else "the disk space or quota"
        return OutputError(
            f"{place}: {limit} is used up{needed}, {_free_bytes(place):,} bytes free. "
            "Make room and run again: it goes on where it stopped"
        )
    if isinstance(error, PermissionError):
        return OutputError(f"{place}: no permission ({error}); expected a place this user may write to")
    if isinstance(error, FileNotFoundError):
        return OutputError(
            f"{place}: not found ({error}); expected an existing bucket or a folder that can be made"
        )
    return OutputError(f"{place}: {type(error).__name__}: {error}; expected a place that can be written to")


def _free_bytes(place: str) -> int:
    path = Path(place)
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
