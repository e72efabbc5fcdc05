"""The HTTP sessions of a client: their connections, their TLS, the headers of all their requests."""

from __future__ import annotations

import ssl
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from aiohappyeyeballs import SocketFactoryType
from multidict import CIMultiDict
from yarl import URL

from turbo_fetch import __version__
from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.addresses import any_socket, is_special_host
from turbo_fetch.fetch.connections import BoundedConnector
from turbo_fetch.fetch.failures import KnownFailure, late_name, proxy_failure, proxy_refusal
from turbo_fetch.fetch.proxies import Proxies
from turbo_fetch.fetch.resolver import Resolver
from turbo_fetch.redaction import MASK, is_secret_header
from turbo_fetch.spec import HttpSpec

ACCEPT: Final = "image/jpeg,image/png,image/*;q=0.9,*/*;q=0.5"
"""Does not name webp or avif: servers that convert on demand would send those instead of the original."""

READ_BUFFER_BYTES: Final = 65_536
"""A connection is paused when twice this much waits to be read; it is held besides the budget."""

KEEP_ALIVE_S: Final = 15.0
SPARE_CONNECTIONS: Final = 32
"""Idle connections that are kept when every slot is in use."""


class Sessions:
    """The sessions of a client, one for each way to hosts: directly, or through a proxy. Opened in the loop.

    Their requests are made as one; those that a proxy or the resolver fails raise KnownFailure.
    """

    def __init__(
        self,
        http: HttpSpec,
        headers: CIMultiDict[str],
        tls: ssl.SSLContext | bool,
        resolver: Resolver,
        gate: SocketFactoryType,
        proxies: Proxies,
    ) -> None:
        self._open = partial(_open_session, http, headers, tls, resolver, gate)
        self._http = http
        self._resolver = resolver
        self._proxies = proxies
        self._direct = self._open(None)
        self._proxied: dict[str, aiohttp.ClientSession] = {}

    def proxy_towards(self, url: URL) -> str | None:
        """Return the proxy through which an address is asked for, if there is one."""
        if not self._proxies:
            return None
        return self._proxies.towards(url.scheme, url.raw_host or "", url.port)

    async def get(self, url: URL, **options: Any) -> aiohttp.ClientResponse:
        """Make a request; see :meth:`aiohttp.ClientSession.get`."""
        proxy = self.proxy_towards(url)
        if proxy is None:
            return await self._get_directly(url, **options)
        session = self._proxied.get(proxy)
        if session is None:
            session = self._proxied[proxy] = self._open(proxy)
        try:
            response = await session.get(url, **options)
        except Exception as error:
            is_tunnel = url.scheme == "https" or proxy.startswith("socks")
            failure = proxy_failure(error, URL(proxy), is_tunnel, self._http)
            if failure is None:
                raise
            raise KnownFailure(failure) from error
        if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and url.scheme == "http":
            response.close()
            raise KnownFailure(proxy_refusal(response.status, response.reason))
        return response

    async def _get_directly(self, url: URL, **options: Any) -> aiohttp.ClientResponse:
        try:
            return await self._direct.get(url, **options)
        except aiohttp.ConnectionTimeoutError as error:
            if not self._resolver.is_asking(url.raw_host or ""):
                raise
            raise KnownFailure(late_name(self._http)) from error

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._direct, *self._proxied.values()):
            await session.close()


def _open_session(
    http: HttpSpec,
    headers: CIMultiDict[str],
    tls: ssl.SSLContext | bool,
    resolver: Resolver,
    gate: SocketFactoryType,
    proxy: str | None,
) -> aiohttp.ClientSession:
    """Return a session without cookies, and without what the environment says."""
    options: dict[str, Any] = {
        "max_connections": http.concurrency + SPARE_CONNECTIONS,
        "resolver": resolver,
        "use_dns_cache": False,
        "keepalive_timeout": KEEP_ALIVE_S,
        "ssl": tls,
    }
    is_socks = proxy is not None and proxy.startswith("socks")
    if proxy is not None and is_socks:
        from turbo_fetch.fetch.socks import SocksConnector

        connector: aiohttp.BaseConnector = SocksConnector(
            URL(proxy), only_public=not http.allow_private_addresses, **options
        )
    else:
        # A proxy is usually a neighbour.
        connector = BoundedConnector(socket_factory=gate if proxy is None else any_socket, **options)
    timeout = aiohttp.ClientTimeout(total=None, connect=http.connect_timeout_s, ceil_threshold=float("inf"))
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        proxy=None if is_socks else proxy,
        read_bufsize=READ_BUFFER_BYTES,
        timeout=timeout,
    )


def make_ready(proxies: Proxies) -> None:
    """Import what requests through the proxies need, which would stop the loop."""
    if proxies:
        is_special_host("localhost")
    if any(proxy is not None and proxy.startswith("socks") for proxy in (proxies.http, proxies.https)):
        import turbo_fetch.fetch.socks  # noqa: F401


def request_headers(http: HttpSpec) -> CIMultiDict[str]:
    """Return the headers of all requests, without secret ones; raises SpecError if one is masked."""
    headers = CIMultiDict(
        {
            "User-Agent": http.user_agent.replace("{version}", __version__),
            "Accept": ACCEPT,
            "Accept-Encoding": "identity",
        }
    )
    for table in (http.headers, *(preset.headers for preset in http.domains.values())):
        for name, value in table.items():
            if value == MASK:
                raise SpecError(f"the request header {name} is masked ({MASK}); give its value, or ${{NAME}}")
    headers.update({name: value for name, value in http.headers.items() if not is_secret(name, http)})
    return headers


def tls_context(http: HttpSpec) -> ssl.SSLContext | bool:
    """Return the one context of all connections, or True for the one that aiohttp has made already.

    Reading the certificate store takes 20 to 40 ms. Raises SpecError if `http.ca_file` cannot be read.
    """
    if http.verify_tls and http.ca_file is None:
        return True
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if http.ca_file is not None:
        try:
            context.load_verify_locations(cafile=http.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SpecError(
                f"fetch.http.ca_file is {http.ca_file!r}, expected a PEM file of certificates: {error}"
            ) from error
    if not http.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def is_secret(name: str, http: HttpSpec) -> bool:
    """Whether a header of the spec is only for the host of a row."""
    return is_secret_header(name) or name.lower() in map(str.lower, http.secret_headers)
