"""The HTTP session of a client: its connections, its TLS, the headers of all its requests."""

from __future__ import annotations

import ssl
from typing import Final

import aiohttp
from aiohappyeyeballs import SocketFactoryType
from multidict import CIMultiDict

from turbo_fetch import __version__
from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.connections import BoundedConnector
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


def open_session(
    http: HttpSpec,
    headers: CIMultiDict[str],
    tls: ssl.SSLContext | bool,
    resolver: Resolver,
    socket_factory: SocketFactoryType,
) -> aiohttp.ClientSession:
    """Return a session without cookies, and with the proxy of the spec alone; to be called in the loop."""
    connector = BoundedConnector(
        max_connections=http.concurrency + SPARE_CONNECTIONS,
        resolver=resolver,
        use_dns_cache=False,
        keepalive_timeout=KEEP_ALIVE_S,
        ssl=tls,
        socket_factory=socket_factory,
    )
    timeout = aiohttp.ClientTimeout(total=None, connect=http.connect_timeout_s, ceil_threshold=float("inf"))
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        proxy=http.proxy,
        read_bufsize=READ_BUFFER_BYTES,
        timeout=timeout,
    )


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
