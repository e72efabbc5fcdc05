"""What every source can do, and how a failure to read from one is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any, Final, Protocol

from turbo_fetch.fetch.failures import Failure, KnownFailure, status_failure
from turbo_fetch.outcomes import Outcome

CHUNK_BYTES: Final = 1_000_000
"""What a thread reads at once. Most images are smaller, and take one read."""

_NO_PATH: Final = frozenset({errno.ELOOP, errno.ENAMETOOLONG})
_UNREACHED: Final = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EPIPE,
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
    }
)
_NO_CONNECTION: Final = frozenset({"EndpointConnectionError", "ConnectionClosedError", "ConnectError"})
"""Names of exceptions of clients whose store cannot be reached, and which have no number of the system."""
_BUSY: Final = frozenset({errno.EBUSY, errno.EAGAIN})


class Source(Protocol):
    """Reads bytes at addresses of one kind."""

    is_remote: bool
    """Whether they come over the network, whose use may be limited."""

    def chunks(self, address: str, start: int, stop: int | None) -> Iterator[bytes]:
        """Yield the bytes from `start` to before `stop`, None for the end, each time `CHUNK_BYTES`, at the end fewer.

        Blocks. Raises KnownFailure, or whatever its library does, for which see `read_failure`.
        """


def refused(detail: str) -> KnownFailure:
    """Return the failure of a row that names a place which the spec does not open."""
    return KnownFailure((Outcome.ADDRESS, detail))


def read_failure(error: BaseException) -> Failure:
    """Return the failure that an exception of a file system or a client of a store means.

    Clients have exceptions of their own beside those of Python; those with the status of a response are told by it.
    """
    status = _status(error)
    match error:
        case KnownFailure():
            return error.failure
        case FileNotFoundError():
            return Outcome.NOT_FOUND, "no such file"
        case IsADirectoryError() | NotADirectoryError():
            return Outcome.NOT_FOUND, "not a file"
        case OSError() if error.errno in _NO_PATH and status is None:
            return Outcome.NOT_FOUND, "not a file"
        case PermissionError():
            return Outcome.NO_ACCESS, "no permission to read it"
        case TimeoutError():
            return Outcome.TIMEOUT, "not read in time"
        case OSError() if error.errno in _UNREACHED and status is None:
            return Outcome.CONNECT, f"the store cannot be reached: {os.strerror(error.errno).lower()}"
        case _ if type(error).__name__ in _NO_CONNECTION:
            return Outcome.CONNECT, "the store cannot be reached"
        case OSError() if error.errno in _BUSY:
            return Outcome.RATE_LIMITED, "the store asks for fewer requests"
        # gcsfs has no other exception for that.
        case _ if status in {401, 403} or (error.args and str(error.args[0]).startswith("Forbidden: ")):
            return Outcome.NO_ACCESS, "no permission to read it"
        case _ if status == 404:
            return Outcome.NOT_FOUND, "no such file"
        case _ if status is not None and status >= 400:
            return status_failure(status, None)
        case OSError() if error.errno is not None:
            return Outcome.UNREADABLE, os.strerror(error.errno).lower()
        case _ if "Credentials" in type(error).__name__:
            return Outcome.NO_ACCESS, "no credentials for this store"
    return Outcome.UNREADABLE, type(error).__name__


def _status(error: Any) -> int | None:
    """Return the HTTP status that a client's exception carries."""
    response = getattr(error, "response", None)
    found = (
        getattr(response, "status_code", None)
        or getattr(error, "status", None)
        or getattr(error, "code", None)
    )
    return int(found) if isinstance(found, int | str) and str(found).isdecimal() else None
