"""Which proxy leads to a host: that of the spec, or those of the environment, as curl and urllib read it.

The environment is read once, by whoever starts a run; what it says travels to the workers, wherever they are, and is
written nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

from turbo_fetch.errors import SpecError
from turbo_fetch.redaction import MASK, redact

ENVIRONMENT: Final = "environment"
"""The value of `fetch.http.proxy` that stands for the proxies of the environment."""

EXPECTED: Final = (
    'expected "environment", or http://host:port; https, socks4, socks4a, socks5 and socks5h, and user:password@ '
    "before the host, are possible too"
)
_SCHEMES: Final = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
"""Kinds of proxies, and their ports where none is given."""
_ALIASES: Final = {"socks": "socks5"}
_PORTS: Final = {"http": 80, "https": 443}
_WITH_PORT: Final = re.compile(r"(.+):(\d{1,5})")

Network = IPv4Network | IPv6Network


def proxy_address(text: str) -> str | None:
    """Return a proxy as a whole URL with its port, or None if the text names none; `host:port` is of http."""
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    scheme, rest = (scheme.lower(), rest) if separator else ("http", text)
    scheme = _ALIASES.get(scheme, scheme)
    if scheme not in _SCHEMES or re.search(r"\s", rest):
        return None
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = parts.port or _SCHEMES[scheme]
    except ValueError:
        return None
    if not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.fragment:
        return None
    return f"{scheme}://{_with_port(parts, port)}"


def _with_port(parts: SplitResult, port: int) -> str:
    user, at, host = parts.netloc.rpartition("@")
    bare = host if parts.port is None else host.rpartition(":")[0]
    return f"{user}{at}{bare.rstrip(':')}:{port}"


@dataclass(frozen=True, slots=True)
class Exceptions:
    """The hosts that are asked without a proxy: what `NO_PROXY` says."""

    all: bool = False
    names: frozenset[str] = frozenset()
    """Names, each for itself and all that end with it; addresses; and both with a port: `host:port`."""
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what a list says, whose entries are divided by commas or blanks; odd ones match nothing."""
        names, networks = set(), []
        entries = [entry.lower() for entry in re.split(r"[\s,]+", text) if entry]
        for entry in entries:
            if "/" in entry:
                network = _network(entry)
                networks += [network] if network is not None else []
            else:
                names.add(_plain(entry))
        return cls("*" in entries, frozenset(names - {""}), tuple(networks))

    def hold(self, host: str, port: int) -> bool:
        """Whether a host, a name or an address in any case, is asked without a proxy."""
        if self.all:
            return True
        host = _plain(host.lower())
        if any(name in self.names or f"{name}:{port}" in self.names for name in _suffixes(host)):
            return True
        if not self.networks:
            return False
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self.networks)


def _plain(entry: str) -> str:
    """Return a name or address without leading `*.`, dots at both ends, and brackets, in its canonical form."""
    entry = entry.removeprefix("*").lstrip(".")
    match = _WITH_PORT.fullmatch(entry)
    host, port = (match[1], f":{int(match[2])}") if match and _is_host(match[1]) else (entry, "")
    host = host.rstrip(".").removeprefix("[").removesuffix("]")
    with suppress(ValueError):
        host = str(ip_address(host))
    return f"{host}{port}" if host else ""


def _is_host(text: str) -> bool:
    """Whether what stands before a colon and digits is a host, rather than the beginning of an IPv6 address."""
    return text.startswith("[") or ":" not in text


def _network(entry: str) -> Network | None:
    try:
        return ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None


def _suffixes(host: str) -> Iterable[str]:
    """Yield a name and all names that it is under; of an address, itself."""
    yield host
    try:
        ip_address(host)
    except ValueError:
        while "." in host:
            host = host.partition(".")[2]
            yield host


NO_EXCEPTIONS: Final = Exceptions()


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of a run, as whole URLs; without any it is false."""

    http: str | None = field(default=None, repr=False)
    """For addresses of http."""
    https: str | None = field(default=None, repr=False)
    exceptions: Exceptions = NO_EXCEPTIONS

    def __bool__(self) -> bool:
        return self.http is not None or self.https is not None

    def towards(self, scheme: str, host: str, port: int | None = None) -> str | None:
        """Return the proxy that leads to a host, None if it is asked without one."""
        proxy = self.https if scheme == "https" else self.http
        if proxy is None or self.exceptions.hold(host, port or _PORTS.get(scheme, 0)):
            return None
        return proxy

    @classmethod
    def of(cls, proxy: str | None, environment: Mapping[str, str]) -> Self:
        """Return what a value of `fetch.http.proxy` means. Raises SpecError for what names no proxy."""
        if proxy is None:
            return cls()
        if proxy == ENVIRONMENT:
            return cls.of_environment(environment)
        address = proxy_address(proxy)
        if address is None:
            raise SpecError(f"fetch.http.proxy is {redact(proxy)!r}; {EXPECTED}")
        if f"{MASK}@" in address:
            raise SpecError(
                f"the user and password of fetch.http.proxy are masked ({MASK}); give them, or ${{NAME}}"
            )
        return cls(address, address)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return what HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say. Raises SpecError for what names no proxy."""
        found = {scheme: _variable(f"{scheme}_proxy", environment) for scheme in ("http", "https", "all")}
        fallback = _checked(*found["all"])
        exceptions = Exceptions.parse(exceptions_in(environment))
        return cls(_checked(*found["http"]) or fallback, _checked(*found["https"]) or fallback, exceptions)


NO_PROXIES: Final = Proxies()


def named_in(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the environment that name a proxy, with what they say."""
    found = (_variable(f"{scheme}_proxy", environment) for scheme in ("http", "https", "all"))
    return {name: value for name, value in found if value}


def exceptions_in(environment: Mapping[str, str]) -> str:
    """Return what NO_PROXY says."""
    return _variable("no_proxy", environment)[1]


def unused(proxy: str | None, environment: Mapping[str, str]) -> str | None:
    """Say that the environment names proxies which a run leaves alone, if it does."""
    names = list(named_in(environment)) if proxy is None else []
    if not names:
        return None
    verb = "is" if len(names) == 1 else "are"
    return f'{" and ".join(names)} {verb} set but not used; set fetch.http.proxy = "environment" to use them'


def _variable(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the name and the value of a variable, the one in lower case first, even if it is empty.

    HTTP_PROXY counts for nothing in a CGI script, where a client may have set it: https://httpoxy.org
    """
    if name in environment:
        return name, environment[name].strip()
    upper = name.upper()
    if upper == "HTTP_PROXY" and "REQUEST_METHOD" in environment:
        return upper, ""
    return upper, environment.get(upper, "").strip()


def _checked(name: str, value: str) -> str | None:
    if not value:
        return None
    address = proxy_address(value)
    if address is None:
        raise SpecError(
            f"the environment's {name} is {redact(value)!r}; expected http://host:port; https, socks4, socks4a, "
            "socks5 and socks5h are possible too"
        )
    return address
