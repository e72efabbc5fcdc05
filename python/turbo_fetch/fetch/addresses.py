"""Which IP addresses and ports may be connected to, and the gate through which every connection passes.

A URL list is untrusted input: without a gate it could make the worker ask the machine's own services or its
cloud's metadata address. Names are no protection, for they may resolve to anything, so the check is on the
address itself, at the moment the socket is made. Ports on which another protocol listens that a request could speak
to are refused as in browsers: https://fetch.spec.whatwg.org/#port-blocking
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

import pyarrow as pa
from yarl import URL

from turbo_fetch.plan.urls import parse_urls
from turbo_fetch.spec import HttpSpec

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
"""One entry of :func:`socket.getaddrinfo`."""

_SPECIAL_IPV4: Final = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
"""IANA IPv4 special-purpose registry: every block that is not ordinary unicast."""

_GLOBAL_IPV6: Final = IPv6Network("2000::/3")
_SPECIAL_IPV6: Final = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
"""Blocks inside 2000::/3 that are not ordinary unicast; everything outside 2000::/3 is special anyway."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_ISATAP_TAGS: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})


class AddressRefused(OSError):
    """An address is not public; raised before its socket exists, always with the same text."""

    def __init__(self) -> None:
        super().__init__("not a public address")


def is_public(address: str) -> bool:
    """Return whether an IP literal (without brackets) is ordinary unicast, reachable by anyone.

    IPv6 forms that carry an IPv4 address to connect to (mapped, NAT64, 6to4, ISATAP) are judged by that one.
    What is not a canonical literal is not public.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return _is_public_ipv4(parsed) if isinstance(parsed, IPv4Address) else _is_public_ipv6(parsed)


def is_special_host(host: str) -> bool:
    """Return whether a host is itself an address that is not public, or localhost, or no host at all.

    It may be written in any way that the URL Standard takes for an address: `127.1`, `0x7f000001`, `%31%32%37.0.0.1`.
    """
    bare = host.strip("[]").rstrip(".")
    authority = f"[{bare}]" if ":" in bare else bare
    canonical = parse_urls(pa.array([f"http://{authority}/"])).host[0]
    if canonical is None:
        return True
    canonical = canonical.strip("[]")
    try:
        ip_address(canonical)
    except ValueError:
        return canonical == "localhost" or canonical.endswith(".localhost")
    return not is_public(canonical)


def _is_public_ipv4(address: IPv4Address) -> bool:
    return not any(address in block for block in _SPECIAL_IPV4)


def _is_public_ipv6(address: IPv6Address) -> bool:
    bits = int(address)
    if address in _MAPPED or address in _NAT64:
        return _is_public_ipv4(IPv4Address(bits & 0xFFFF_FFFF))
    if address not in _GLOBAL_IPV6 or any(address in block for block in _SPECIAL_IPV6):
        return False
    if address in _SIX_TO_FOUR and not _is_public_ipv4(IPv4Address(bits >> 80 & 0xFFFF_FFFF)):
        return False
    is_isatap = (bits >> 32 & 0xFFFF_FFFF) in _ISATAP_TAGS
    return not is_isatap or _is_public_ipv4(IPv4Address(bits & 0xFFFF_FFFF))


def public_socket(info: AddressInfo) -> socket.socket:
    """Return an unconnected socket for an address; raise AddressRefused unless it is public."""
    if not is_public(info[4][0]):
        raise AddressRefused
    return any_socket(info)


def any_socket(info: AddressInfo) -> socket.socket:
    """Return an unconnected socket for an address, whatever it is."""
    family, kind, protocol, _, _ = info
    return socket.socket(family, kind, protocol)


BAD_PORTS: Final = frozenset({
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514,
    515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723,
    2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
})  # fmt: skip


def port_problem(url: URL, http: HttpSpec) -> str | None:
    """Say why the port of an address may not be asked, or return None."""
    port = url.explicit_port
    if port is None or http.ports == "any":
        return None
    if http.ports == "web":
        return f"port {port} is not one of the web" if port in BAD_PORTS else None
    return None if port in http.ports else f"port {port} is not in fetch.http.ports"
