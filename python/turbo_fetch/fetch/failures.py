"""From what went wrong to an outcome and a detail: exceptions, HTTP statuses and proxies, as pure functions.

Details are the same text for the same failure: no ports, addresses, object ids, or counts that vary. What went wrong on
the way through a proxy says whose fault it is.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from http import HTTPStatus
from typing import Final

import aiohttp
from yarl import URL

from turbo_fetch.causes import PROXY_FAULT, TUNNEL_FAULT
from turbo_fetch.fetch.addresses import AddressRefused
from turbo_fetch.fetch.codings import CodingError
from turbo_fetch.fetch.deadline import Limit
from turbo_fetch.fetch.request import printable
from turbo_fetch.fetch.response_head import MalformedResponse
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
_CLOSED_IN_HANDSHAKE: Final = (Outcome.CONNECT, "connection closed during the TLS handshake")
_CLOSED_DURING_HANDSHAKE: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def too_large(max_body_mb: float) -> Failure:
    """Return the failure of a body that is larger than allowed, in megabytes of 10^6 bytes."""
    return Outcome.TOO_LARGE, f"body larger than {max_body_mb:g} MB"


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
        case MalformedResponse():
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
        return _CLOSED_IN_HANDSHAKE
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return Outcome.TLS, f"TLS handshake failed: {(reason or 'unknown reason').replace('_', ' ').lower()}"


def _connect_failure(error: OSError) -> Failure:
    if isinstance(error, AddressRefused):
        return Outcome.ADDRESS, "not a public address"
    if error.errno == errno.ETIMEDOUT:
        return Outcome.TIMEOUT, "connection timed out"
    if isinstance(error, ConnectionResetError) and error.errno is None:
        # Not of the system: asyncio's own, when a connection ends before TLS is agreed on.
        return _CLOSED_IN_HANDSHAKE
    if error.errno is None or error.errno <= 0:
        return Outcome.CONNECT, "connection failed"
    return Outcome.CONNECT, os.strerror(error.errno).lower()


def _payload_failure(error: aiohttp.ClientPayloadError) -> Failure:
    if isinstance(error.__cause__, MalformedResponse):
        return Outcome.PROTOCOL, error.__cause__.message
    return Outcome.TRUNCATED, "body ended early"


class SocksRefusal(OSError):
    """A SOCKS proxy did not connect."""

    def __init__(self, reason: str, may_be_of_host: bool) -> None:
        super().__init__(reason)
        self.may_be_of_host = may_be_of_host


def proxy_failure(error: Exception, proxy: URL, is_tunnel: bool, http: HttpSpec) -> Failure | None:
    """Return the failure that an exception of a request through a proxy means, None if the proxy is not part of it.

    `is_tunnel` is whether the proxy connects before anything is asked, as for https and with SOCKS.
    """
    match error:
        case aiohttp.ClientHttpProxyError():
            return proxy_refusal(error.status, error.message)
        case aiohttp.ClientResponseError():
            return _proxy_fault("malformed answer") if error.request_info.method == "CONNECT" else None
        case aiohttp.ClientProxyConnectionError():
            return _proxy_fault(_proxy_reason(error.os_error))
        case aiohttp.ClientConnectorCertificateError():
            return _proxy_fault("certificate verify failed") if _is_at(proxy, error) else None
        case aiohttp.ClientConnectorError():
            return _connector_failure(error, proxy)
        case aiohttp.ConnectionTimeoutError():
            late = f"no connection within {http.connect_timeout_s:g} s"
            return (Outcome.TIMEOUT, f"{TUNNEL_FAULT if is_tunnel else PROXY_FAULT}: {late}")
        case aiohttp.ClientPayloadError() | ValueError():
            return None
        case aiohttp.ClientConnectionError() | OSError():
            return Outcome.CONNECT, f"{TUNNEL_FAULT}: connection closed before the response"
    return None


def proxy_refusal(status: int, reason: str | None) -> Failure:
    """Return the failure that a status of the proxy itself means.

    By 5xx it says that it cannot reach the host (RFC 9110, 15.6.3), by all others that it does not want to.
    """
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = printable(reason or "").strip()
    words = f"{status} {phrase}".strip()
    return Outcome.CONNECT, f"{TUNNEL_FAULT}: {words}" if status >= 500 else f"{PROXY_FAULT} refused: {words}"


def _connector_failure(error: aiohttp.ClientConnectorError, proxy: URL) -> Failure | None:
    cause = error.os_error
    if isinstance(cause, SocksRefusal):
        return (
            Outcome.CONNECT,
            f"{TUNNEL_FAULT}: {cause}" if cause.may_be_of_host else f"{PROXY_FAULT} refused: {cause}",
        )
    if isinstance(cause, AddressRefused) or not _is_at(proxy, error):
        return None
    return _proxy_fault(_proxy_reason(cause))


def _is_at(proxy: URL, error: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError) -> bool:
    return (error.host, error.port) == (proxy.raw_host, proxy.port)


def _proxy_fault(reason: str) -> Failure:
    return Outcome.CONNECT, f"{PROXY_FAULT}: {reason}"


def _proxy_reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host" if error.errno in NAME_UNKNOWN else "name resolution failed"
    if isinstance(error, ssl.SSLError):
        return f"TLS handshake failed: {(error.reason or 'unknown reason').replace('_', ' ').lower()}"
    if error.errno is None or error.errno <= 0:
        return "connection failed"
    return os.strerror(error.errno).lower()
