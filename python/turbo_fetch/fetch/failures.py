"""From what went wrong to an outcome and a detail: exceptions and HTTP statuses, as pure functions.

Details are the same text for the same failure: no ports, addresses, object ids, or counts that vary.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from http import HTTPStatus
from typing import Final

import aiohttp

from turbo_fetch.fetch.addresses import AddressRefused
from turbo_fetch.fetch.answer_head import MalformedAnswer
from turbo_fetch.fetch.codings import CodingError
from turbo_fetch.fetch.deadline import Limit
from turbo_fetch.fetch.fetched import printable
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec

Failure = tuple[Outcome, str]


class KnownFailure(Exception):
    """A request that failed in a way of which it is known already what it ends as."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure[1])
        self.failure = failure


_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
NAME_UNKNOWN: Final = frozenset(
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
)
_CLOSED_DURING_HANDSHAKE: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def status_failure(status: int, reason: str | None) -> Failure:
    """Return the failure that an HTTP status other than 2xx means, redirects excepted.

    Statuses above 599 count as 5xx (RFC 9110, 15). The detail is img2dataset's, with the registered phrase.
    """
    phrase = _REASONS.get(status) or printable(reason or "").strip() or "unknown status"
    return _status_outcome(status), f"HTTP Error {status}: {phrase}"


def _status_outcome(status: int) -> Outcome:
    if status == HTTPStatus.REQUEST_TIMEOUT:
        return Outcome.TIMEOUT
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Outcome.RATE_LIMITED
    if status < 400:
        return Outcome.REDIRECT
    return Outcome.HTTP_4XX if status < 500 else Outcome.HTTP_5XX


def deadline_failure(limit: Limit, http: HttpSpec) -> Failure:
    """Return the failure that an expired deadline means."""
    if limit == "total":
        return Outcome.TIMEOUT, f"not complete within {http.timeout_s:g} s"
    return Outcome.STALLED, f"no data for {http.stall_timeout_s:g} s"


def error_failure(error: Exception, http: HttpSpec) -> Failure:
    """Return the failure that an exception of a request means."""
    match error:
        case KnownFailure():
            return error.failure
        case aiohttp.ClientConnectorDNSError():
            return _name_failure(error.os_error)
        case aiohttp.ClientConnectorCertificateError():
            return Outcome.TLS, _certificate_detail(error.certificate_error)
        case aiohttp.ClientConnectorSSLError():
            return _handshake_failure(error.os_error)
        case aiohttp.ClientConnectorError():
            return _connect_failure(error.os_error)
        case aiohttp.ConnectionTimeoutError():
            return Outcome.TIMEOUT, f"no connection within {http.connect_timeout_s:g} s"
        case aiohttp.ClientPayloadError():
            return _payload_failure(error)
        case aiohttp.ClientResponseError():
            return Outcome.PROTOCOL, printable(error.message)
        case CodingError():
            return Outcome.PROTOCOL, str(error)
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | ValueError():
            return Outcome.URL, "address cannot be requested"
        case aiohttp.ClientConnectionError() | OSError():
            # A server that closes in a hurry shows as FIN, RST or a broken pipe, as timing has it.
            return Outcome.CONNECT, "connection closed before the response"
    return Outcome.PROTOCOL, f"unexpected {type(error).__name__}"


def late_name(http: HttpSpec) -> Failure:
    """Return the failure that a lookup means which takes longer than a connection may."""
    return Outcome.DNS, f"no answer of the resolver within {http.connect_timeout_s:g} s"


def _name_failure(error: OSError) -> Failure:
    if isinstance(error, socket.gaierror) and error.errno in NAME_UNKNOWN:
        return Outcome.NO_SUCH_HOST, "no such host"
    return Outcome.DNS, "name resolution failed"


def _certificate_detail(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        return f"certificate verify failed: {error.verify_message}"
    return "certificate verify failed"


def _handshake_failure(error: OSError) -> Failure:
    if isinstance(error, _CLOSED_DURING_HANDSHAKE):
        return Outcome.CONNECT, "connection closed during the TLS handshake"
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return Outcome.TLS, f"TLS handshake failed: {(reason or 'unknown reason').replace('_', ' ').lower()}"


def _connect_failure(error: OSError) -> Failure:
    if isinstance(error, AddressRefused):
        return Outcome.ADDRESS, "not a public address"
    if error.errno == errno.ETIMEDOUT:
        return Outcome.TIMEOUT, "connection timed out"
    if error.errno is None or error.errno <= 0:
        return Outcome.CONNECT, "connection failed"
    return Outcome.CONNECT, os.strerror(error.errno).lower()


def _payload_failure(error: aiohttp.ClientPayloadError) -> Failure:
    if isinstance(error.__cause__, MalformedAnswer):
        return Outcome.PROTOCOL, error.__cause__.message
    return Outcome.TRUNCATED, "body ended early"
