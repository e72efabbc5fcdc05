"""Connections through a SOCKS proxy; imported by those who have one alone, for it takes 40 ms."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from python_socks import ProxyConnectionError, ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy
from yarl import URL

from turbo_fetch.fetch.addresses import AddressRefused, is_public
from turbo_fetch.fetch.connections import BoundedConnector
from turbo_fetch.fetch.failures import SocksRefusal
from turbo_fetch.fetch.library_internals import ResponseHandler

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientTimeout

LONGEST_S: Final = 3600.0
"""Deadlines are those of the request; python-socks wants one, too."""

_NOT_OF_HOST: Final = frozenset({2, 7, 0x5C, 0x5D})
"""Replies by which a proxy says that it does not want to: RFC 1928, 6, and SOCKS 4."""

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]


class NamesForProxy(AbstractResolver):
    """Leaves names to the proxy."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the name itself."""
        return [ResolveResult(hostname=host, host=host, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Do nothing."""


class SocksConnector(BoundedConnector):
    """Connects through a SOCKS proxy.

    By `socks5h` and `socks4a` the proxy resolves names; by `socks5` and `socks4` they are resolved here, and only
    public addresses are asked for if `only_public`. Extends a method that aiohttp does not document.
    """

    def __init__(
        self,
        proxy: URL,
        *,
        max_connections: int,
        resolver: AbstractResolver,
        only_public: bool,
        **options: Any,
    ) -> None:
        is_remote = proxy.scheme in {"socks5h", "socks4a"}
        super().__init__(
            max_connections=max_connections,
            resolver=NamesForProxy() if is_remote else resolver,
            family=socket.AF_INET if proxy.scheme == "socks4" else socket.AF_UNSPEC,
            **options,
        )
        self._proxy = proxy
        self._names = resolver
        self._only_public = only_public and not is_remote

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[AddressInfo],
        req: ClientRequest,
        timeout: ClientTimeout,  # noqa: ASYNC109
        client_error: type[Exception] = aiohttp.ClientConnectorError,
        **kwargs: Any,
    ) -> tuple[Any, ResponseHandler]:
        host, port = addr_infos[0][4][:2]
        if self._only_public and not is_public(host):
            raise aiohttp.ClientConnectorError(req.connection_key, AddressRefused())
        try:
            tunnel = await self._tunnel(host, port)
        except SocksRefusal as refusal:
            raise aiohttp.ClientConnectorError(req.connection_key, refusal) from refusal
        except OSError as error:
            raise aiohttp.ClientProxyConnectionError(req.connection_key, error) from error
        return await self._wrap_existing_connection(
            *args, req=req, timeout=timeout, client_error=client_error, sock=tunnel, **kwargs
        )

    async def _tunnel(self, host: str, port: int) -> socket.socket:
        """Return a socket that the proxy connected to a host; raises SocksRefusal, or OSError if there is no proxy."""
        *others, last = await self._proxy_addresses()
        for address in others:
            try:
                return await self._connect(address, host, port)
            except SocksRefusal:
                raise
            except OSError:
                continue
        return await self._connect(last, host, port)

    async def _proxy_addresses(self) -> list[str]:
        host, port = self._proxy.raw_host or "", self._proxy.port or 0
        with suppress(ValueError):
            return [str(ip_address(host))]
        return [each["host"] for each in await self._names.resolve(host, port, socket.AF_UNSPEC)]

    async def _connect(self, address: str, host: str, port: int) -> socket.socket:
        proxy = self._proxy
        connection = Proxy(
            ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5,
            address,
            proxy.port or 0,
            proxy.user,
            proxy.password or ("" if proxy.user else None),
            rdns=True,
        )
        try:
            return await connection.connect(host, port, timeout=LONGEST_S)
        except ProxyConnectionError as error:
            raise OSError(error.errno, error.strerror) from error
        except ProxyError as error:
            code = error.error_code
            raise SocksRefusal(_words(error), code is not None and code not in _NOT_OF_HOST) from error
        except UnicodeError as error:
            raise SocksRefusal("not a host name", may_be_of_host=True) from error


def _words(error: Exception) -> str:
    text = str(error).strip() or "connection closed"
    return f"{text[0].lower()}{text[1:]}" if text[1:2].islower() else text
