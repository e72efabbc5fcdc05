"""Requests: as bytes over connections to the origins of addresses, with TLS and through proxies.

aiohttp makes the connections; what is sent over them is made here. Its own client takes longer for one request, 0.2 ms,
than all else that is done about a body.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, cast

import aiohttp
from aiohappyeyeballs import SocketFactoryType
from multidict import CIMultiDict
from yarl import URL

from turbo_fetch import __version__
from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.addresses import any_socket, is_special_host
from turbo_fetch.fetch.connections import BoundedConnector, ResponseProtocol
from turbo_fetch.fetch.failures import Failure, KnownFailure, late_name, proxy_failure, proxy_refusal
from turbo_fetch.fetch.origins import Origin, credentials, origin_of, request_bytes, request_lines
from turbo_fetch.fetch.proxies import Proxies
from turbo_fetch.fetch.resolver import Resolver
from turbo_fetch.fetch.response import Response
from turbo_fetch.redaction import MASK, is_secret_header
from turbo_fetch.spec import HttpSpec

ACCEPT: Final = "image/jpeg,image/png,image/*;q=0.9,*/*;q=0.5"
"""Does not name webp or avif: servers that convert on demand would send those instead of the original."""

KEEP_ALIVE_S: Final = 15.0
SPARE_CONNECTIONS: Final = 32
"""Idle connections that are kept when every slot is in use."""

MAX_ORIGINS: Final = 2_048
"""What is known of so many is kept, 2 KB each."""
_PROXY_REFUSES: Final = HTTPStatus.PROXY_AUTHENTICATION_REQUIRED


class Session:
    """The connections of a client, over which it sends requests: directly, or through proxies. Opened in the loop.

    Requests that a proxy or the resolver fails raise KnownFailure.
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
        self._http = http
        self._headers = headers
        self._tls = tls
        self._resolver = resolver
        self._gate = gate
        self._proxies = proxies
        self._connectors: dict[str | None, BoundedConnector] = {}
        self._origins: OrderedDict[str, Origin] = OrderedDict()

    def origin(self, address: str) -> Origin:
        """Return the origin of an address; raises ValueError if it cannot be requested."""
        name = origin_of(address)
        origin = self._origins.get(name)
        if origin is None:
            origin = self._origins[name] = self._new_origin(name)
            if len(self._origins) > MAX_ORIGINS:
                self._origins.popitem(last=False)
        return origin

    async def get(self, origin: Origin, address: str, headers: Mapping[str, str] | None = None) -> Response:
        """Ask for an address of `origin`, byte for byte; `headers` replace those of all requests.

        A request whose connection ends without a response is repeated, once (RFC 9112, 9.3.1).
        """
        request = request_bytes(origin, address, headers)
        try:
            try:
                response = await self._ask(origin, request)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                raise
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                response = await self._ask(origin, request)
        except Exception as error:
            failure = self._known_failure(error, origin)
            if failure is None:
                raise
            raise KnownFailure(failure) from error
        if response.status == _PROXY_REFUSES and origin.is_asked_of_proxy:
            response.close()
            raise KnownFailure(proxy_refusal(response.status, response.reason))
        return response

    def close_idle(self) -> None:
        """Close the connections over which no request is under way."""
        for connector in self._connectors.values():
            connector.close_idle()

    async def close(self) -> None:
        """Close all connections."""
        for connector in self._connectors.values():
            await connector.close()

    async def _ask(self, origin: Origin, request: bytes) -> Response:
        connection = await origin.connector.open(origin.connecting, origin.key, self._http.connect_timeout_s)
        try:
            return await cast(ResponseProtocol, connection.protocol).ask(connection, request)
        except BaseException:
            connection.close()
            raise

    def _known_failure(self, error: Exception, origin: Origin) -> Failure | None:
        """Return what a failure is known to mean: a name that was waited for, or a proxy that is to blame."""
        if origin.proxy is not None:
            is_tunnel = origin.url.scheme == "https" or origin.proxy.startswith("socks")
            return proxy_failure(error, URL(origin.proxy), is_tunnel, self._http)
        if isinstance(error, aiohttp.ConnectionTimeoutError) and self._resolver.is_asking(
            origin.url.raw_host or ""
        ):
            return late_name(self._http)
        return None

    def _new_origin(self, name: str) -> Origin:
        url = URL(name, encoded=True)
        proxy = self._proxies.towards(url.scheme, url.raw_host or "", url.port) if self._proxies else None
        if proxy not in self._connectors:
            self._connectors[proxy] = _connector(self._http, self._tls, self._resolver, self._gate, proxy)
        http_proxy = URL(proxy) if proxy is not None and not proxy.startswith("socks") else None
        request = aiohttp.ClientRequest(
            "GET",
            url,
            loop=asyncio.get_running_loop(),
            proxy=http_proxy,
            # A copy, for aiohttp writes the Host of this request into it.
            proxy_headers=None if http_proxy is None else self._headers.copy(),
        )
        is_asked_of_proxy = http_proxy is not None and url.scheme == "http"
        headers = CIMultiDict({"Host": url.host_port_subcomponent or ""})
        headers.update(self._headers)
        if is_asked_of_proxy and http_proxy is not None:
            headers.update(credentials("Proxy-Authorization", http_proxy))
        return Origin(
            name,
            url,
            proxy,
            is_asked_of_proxy,
            headers,
            request_lines(headers),
            self._connectors[proxy],
            request,
            request.connection_key,
        )


def _connector(
    http: HttpSpec,
    tls: ssl.SSLContext | bool,
    resolver: Resolver,
    gate: SocketFactoryType,
    proxy: str | None,
) -> BoundedConnector:
    """Return what makes the connections of one way to hosts."""
    options: dict[str, Any] = {
        "max_connections": http.concurrency + SPARE_CONNECTIONS,
        "resolver": resolver,
        "use_dns_cache": False,
        "keepalive_timeout": KEEP_ALIVE_S,
        "ssl": tls,
    }
    if proxy is not None and proxy.startswith("socks"):
        from turbo_fetch.fetch.socks import SocksConnector

        return SocksConnector(URL(proxy), only_public=not http.allow_private_addresses, **options)
    # A proxy is usually a neighbour.
    return BoundedConnector(socket_factory=gate if proxy is None else any_socket, **options)


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
