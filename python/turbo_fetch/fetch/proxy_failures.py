"""From what went wrong on the way through a proxy to a failure that says whose fault it is: pure functions."""

from __future__ import annotations

import os
import socket
import ssl
from http import HTTPStatus

import aiohttp
from yarl import URL

from turbo_fetch.causes import PROXY_FAULT, TUNNEL_FAULT
from turbo_fetch.fetch.addresses import AddressRefused
from turbo_fetch.fetch.failures import NAME_UNKNOWN, Failure
from turbo_fetch.fetch.fetched import printable
from turbo_fetch.outcomes import Outcome
from turbo_fetch.spec import HttpSpec


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
            return refusal(error.status, error.message)
        case aiohttp.ClientResponseError():
            return _fault("malformed answer") if error.request_info.method == "CONNECT" else None
        case aiohttp.ClientProxyConnectionError():
            return _fault(_reason(error.os_error))
        case aiohttp.ClientConnectorCertificateError():
            return _fault("certificate verify failed") if _is_at(proxy, error) else None
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


def refusal(status: int, reason: str | None) -> Failure:
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
    return _fault(_reason(cause))


def _is_at(proxy: URL, error: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError) -> bool:
    return (error.host, error.port) == (proxy.raw_host, proxy.port)


def _fault(reason: str) -> Failure:
    return Outcome.CONNECT, f"{PROXY_FAULT}: {reason}"


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host" if error.errno in NAME_UNKNOWN else "name resolution failed"
    if isinstance(error, ssl.SSLError):
        return f"TLS handshake failed: {(error.reason or 'unknown reason').replace('_', ' ').lower()}"
    if error.errno is None or error.errno <= 0:
        return "connection failed"
    return os.strerror(error.errno).lower()
