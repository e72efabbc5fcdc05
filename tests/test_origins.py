"""Requests as bytes: what goes over the connection, and what never does."""

from __future__ import annotations

import asyncio
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from turbo_fetch.fetch.addresses import any_socket
from turbo_fetch.fetch.origins import Origin, origin_of, path_of, request_bytes
from turbo_fetch.fetch.proxies import Proxies
from turbo_fetch.fetch.resolver import Resolver
from turbo_fetch.fetch.session import Session
from turbo_fetch.spec import HttpSpec


def origin(address: str, proxies: Proxies | None = None, **headers: str) -> Origin:
    """Return the origin of an address as a session sees it whose requests have these headers."""

    async def opened() -> Origin:
        session = Session(
            HttpSpec(), CIMultiDict(headers), True, Resolver(), any_socket, proxies or Proxies()
        )
        try:
            return session.origin(address)
        finally:
            await session.close()

    return asyncio.run(opened())


@pytest.mark.parametrize(
    ("address", "target", "host"),
    [
        ("http://images.example/a.jpg", "/a.jpg", "images.example"),
        ("http://images.example/", "/", "images.example"),
        ("http://images.example:8080/a%20b?c=d&e=/f", "/a%20b?c=d&e=/f", "images.example:8080"),
        ("https://images.example/a?", "/a?", "images.example"),
        ("http://[2001:db8::1]:81/a#b", "/a", "[2001:db8::1]:81"),
        ("http://images.example/a//b/../c?x@y", "/a//b/../c?x@y", "images.example"),
    ],
)
def test_an_address_is_asked_for_byte_for_byte(address: str, target: str, host: str) -> None:
    request = request_bytes(origin(address, Accept="image/*"), address, None)
    assert request == f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: image/*\r\n\r\n".encode()
    assert path_of(address) == target


def test_headers_of_a_request_replace_those_of_all_whatever_their_case() -> None:
    address = "http://images.example/a"
    request = request_bytes(
        origin(address, Accept="*/*", Via="x"), address, {"accept": "image/*", "host": "b"}
    )
    lines = request.split(b"\r\n")
    assert lines[0] == b"GET /a HTTP/1.1"
    assert {line.lower() for line in lines[1:-2]} == {b"host: b", b"accept: image/*", b"via: x"}


def test_a_user_in_the_address_becomes_a_header_and_is_no_part_of_the_origin() -> None:
    address = "http://me:s%C3%A9cret@images.example/a"
    asked = origin(address)
    assert asked.name == origin_of(address) == "http://images.example"
    expected = b64encode("me:sécret".encode()).decode()
    assert (
        request_bytes(asked, address, None).split(b"\r\n")[2] == f"Authorization: Basic {expected}".encode()
    )
    with pytest.raises(ValueError, match="Authorization"):
        request_bytes(asked, address, {"authorization": "Bearer x"})


def test_a_proxy_is_asked_for_the_whole_address_without_its_user_and_told_who_asks() -> None:
    address = "http://me:secret@images.example/a?b"
    asked = origin(address, Proxies("http://us:them@proxy.example:3128"))
    request = request_bytes(asked, address, None)
    assert request.startswith(b"GET http://images.example/a?b HTTP/1.1\r\nHost: images.example\r\n")
    assert b"Proxy-Authorization: Basic " + b64encode(b"us:them") in request
    secure = origin("https://images.example/a", Proxies(https="http://us:them@proxy.example:3128"))
    tunnelled = request_bytes(secure, "https://images.example/a", None)
    assert tunnelled.startswith(b"GET /a HTTP/1.1\r\n")
    assert b"Proxy-Authorization" not in tunnelled


@given(st.text(max_size=6), st.sampled_from("\r\n\0\x7f\x01"), st.text(max_size=6))
def test_no_header_and_no_address_ends_a_line_early(before: str, control: str, after: str) -> None:
    address = "http://images.example/a"
    asked = origin(address)
    text = f"{before}{control}{after}".encode("utf-8", "replace").decode()
    for headers in ({"X": text}, {text: "x"}):
        with pytest.raises(ValueError, match="control character"):
            request_bytes(asked, address, headers)
    with pytest.raises(ValueError, match="control character"):
        request_bytes(asked, f"{address}{text.replace('#', '')}", None)
