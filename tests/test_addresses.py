from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.fetch.addresses import AddressRefused, is_public, public_socket

PUBLIC_IPV4 = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.0.1",
    "172.32.0.1",
]
PUBLIC_IPV4 += [
    "192.0.1.1",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "126.0.0.1",
]
SPECIAL_IPV4 = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
]
SPECIAL_IPV4 += ["127.1.2.3", "169.254.169.254", "169.254.0.1", "172.16.0.1", "172.31.255.255", "192.0.0.1"]
SPECIAL_IPV4 += ["192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255"]
SPECIAL_IPV4 += [
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
]
PUBLIC_IPV6 = ["2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001::1", "2003::1", "2400:cb00::1"]
SPECIAL_IPV6 = ["::", "::1", "::7f00:1", "::127.0.0.1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0"]
SPECIAL_IPV6 += ["fec0::1", "ff02::1", "ff05::2", "100::1", "100:0:0:1::1", "2001::1", "2001:0:4136:e378::1"]
SPECIAL_IPV6 += ["2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1", "4000::1", "5f00::1"]
SPECIAL_IPV6 += ["64:ff9b:1::1", "64:ff9b:1::8.8.8.8", "64:ff9b::1:808:808", "::ffff:0:8.8.8.8", "e000::1"]
NOT_LITERALS = ["", " 1.1.1.1", "1.1.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.01"]
NOT_LITERALS += ["localhost", "1.1.1.1.", "[::1]", "::1]", "1.1.1.1/32", "::ffff:1.1.1.1.1", "\uff11.1.1.1"]

ipv4 = st.integers(0, 2**32 - 1).map(IPv4Address)
CARRIERS = {
    "mapped": lambda address: IPv6Address(0xFFFF << 32 | int(address)),
    "nat64": lambda address: IPv6Address(0x64FF9B << 96 | int(address)),
    "6to4": lambda address: IPv6Address(0x2002 << 112 | int(address) << 80 | 1),
    "isatap": lambda address: IPv6Address(0x2606_4700 << 96 | 0x5EFE << 32 | int(address)),
    "isatap-global": lambda address: IPv6Address(0x2606_4700 << 96 | 0x0200_5EFE << 32 | int(address)),
}


@pytest.mark.parametrize("address", [*PUBLIC_IPV4, *PUBLIC_IPV6])
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", [*SPECIAL_IPV4, *SPECIAL_IPV6])
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", NOT_LITERALS)
def test_what_is_no_canonical_literal_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("carrier", CARRIERS)
@given(address=ipv4)
def test_an_address_that_carries_another_is_judged_by_it(carrier: str, address: IPv4Address) -> None:
    assert is_public(str(CARRIERS[carrier](address))) == is_public(str(address))


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("address", SPECIAL_IPV4)
def test_no_notation_hides_a_special_address(carrier: str, address: str) -> None:
    carried = CARRIERS[carrier](IPv4Address(address))
    notations = {str(carried), carried.exploded, carried.exploded.upper(), f"{carried}%lo"}
    assert not any(is_public(notation) for notation in notations)


@given(address=ipv4)
def test_every_public_ipv4_address_is_one_by_the_standard_library_too(address: IPv4Address) -> None:
    assert not is_public(str(address)) or (address.is_global and not address.is_multicast)


@given(address=st.integers(0, 2**128 - 1).map(IPv6Address))
def test_every_public_ipv6_address_is_global_unicast(address: IPv6Address) -> None:
    assert (
        not is_public(str(address)) or address in IPv6Network("2000::/3") or address.ipv4_mapped is not None
    )


@given(address=ipv4)
def test_an_ipv4_address_is_public_exactly_outside_the_special_blocks(address: IPv4Address) -> None:
    blocks = "0/8 10/8 100.64/10 127/8 169.254/16 172.16/12 192.0.0/24 192.0.2/24 192.88.99/24 192.168/16"
    blocks += " 198.18/15 198.51.100/24 203.0.113/24 224/3"
    special = [IPv4Network(_full(block)) for block in blocks.split()]
    assert is_public(str(address)) == (not any(address in block for block in special))


def _full(block: str) -> str:
    network, _, length = block.partition("/")
    return f"{'.'.join((network.split('.') + ['0'] * 4)[:4])}/{length}"


def test_the_gate_refuses_before_there_is_a_socket() -> None:
    with pytest.raises(AddressRefused, match="not a public address"):
        public_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 80)))


def test_the_gate_makes_a_socket_for_a_public_address() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("1.1.1.1", 80))
    with public_socket(info) as made:
        assert (made.family, made.type) == (socket.AF_INET, socket.SOCK_STREAM)
