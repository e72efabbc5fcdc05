"""What goes wrong at a place of output, or at a dataset that is read, told so that the user knows what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from turbo_fetch.errors import InputError, OutputError, OutputExists, TurboFetchError
from turbo_fetch.storage.disk import free_bytes

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def explained(
    place: str, needed_bytes: int = 0, missing_is_error: bool = True, reading: bool = False
) -> Iterator[None]:
    """Turn what goes wrong at `place` into an OutputError that says so, or an InputError for a file that is no place.

    Cloud clients raise exceptions of their own kinds (credentials, bucket, network), hence all are caught.
    """
    try:
        yield
    except TurboFetchError:
        raise
    except FileNotFoundError as error:
        if not missing_is_error:
            raise
        raise (read_error if reading else write_error)(error, place, needed_bytes) from error
    except Exception as error:
        raise (read_error if reading else write_error)(error, place, needed_bytes) from error


def read_error(error: Exception, place: str, _bytes: int = 0) -> TurboFetchError:
    """Return what to raise for `error` when reading at `place`."""
    if isinstance(error, NotADirectoryError):
        return InputError(
            f"{_file_of(place)}: this is a file; expected a dataset: a folder, or an fsspec URL of one"
        )
    if isinstance(error, PermissionError):
        return OutputError(f"{place}: no permission to read ({error})")
    return OutputError(f"{place}: cannot be read: {type(error).__name__}: {error}")


def write_error(error: Exception, place: str, needed_bytes: int) -> OutputError:
    """Return the OutputError for `error` when writing `needed_bytes` (0: unknown) to `place`."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL:
        needed = f", {needed_bytes:,} bytes needed" if needed_bytes else ""
        limit = "the file size limit" if number == errno.EFBIG else "the disk space or quota"
        return OutputError(
            f"{place}: {limit} is used up{needed}, {free_bytes(Path(place)):,} bytes free. "
            "Make room and run again: it resumes where it stopped"
        )
    if isinstance(error, NotADirectoryError | FileExistsError) and (file := _file_of(place)) is not None:
        return OutputExists(f"{file}: this is a file; expected a folder, or a path at which one can be made")
    if isinstance(error, PermissionError) or number == errno.EROFS:
        return OutputError(f"{place}: no permission ({error}); expected a place this user may write to")
    if isinstance(error, UnicodeEncodeError):
        return OutputError(
            f"{place}: the locale's encoding, {error.encoding}, has no way to write this name; expected a locale with "
            "UTF-8, such as LC_ALL=C.UTF-8"
        )
    if isinstance(error, FileNotFoundError):
        return OutputError(
            f"{place}: not found ({error}); expected an existing bucket or a folder that can be made"
        )
    return OutputError(f"{place}: {type(error).__name__}: {error}; expected a place that can be written to")


def _file_of(place: str) -> Path | None:
    """Return what of a path is a file, though a folder is needed, itself or one that it would be in."""
    path = Path(place)
    return next((each for each in (path, *path.parents) if each.is_file()), None)
