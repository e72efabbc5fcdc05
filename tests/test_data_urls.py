"""`data:` URLs, against the rules of the Fetch standard and Python's own reader of them."""

from __future__ import annotations

import base64
import urllib.request
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.fetch.failures import KnownFailure
from turbo_fetch.outcomes import Outcome
from turbo_fetch.sources.data_urls import DataUrls, decoded, media_type

PIXEL = base64.b64encode(b"\x89PNG...").decode()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("data:,A%20brief%20note", b"A brief note"),
        (f"data:image/png;base64,{PIXEL}", b"\x89PNG..."),
        (f"DATA:image/png;charset=x; BASE64,{PIXEL}", b"\x89PNG..."),
        (f"data:image/png;base64,{PIXEL}#part", b"\x89PNG..."),
        ("data:;base64,QQ", b"A"),
        ("data:;base64,Q Q%3D\n=", b"A"),
        ("data:;base64,%51%51==", b"A"),
        ("data:;base64,", b""),
        ("data:base64,QQ==", b"QQ=="),
        ("data:image/svg+xml,<svg/>", b"<svg/>"),
    ],
)
def test_data_urls_are_read_as_browsers_do(address: str, expected: bytes) -> None:
    assert decoded(address) == expected


@pytest.mark.parametrize(
    "address", ["data:", "data:image/png;base64", "data:;base64,Q", "data:;base64,QQ-_", "data:;base64,Q=Q="]
)
def test_malformed_ones_are_rows_without_a_usable_url(address: str) -> None:
    with pytest.raises(KnownFailure) as caught:
        decoded(address)
    assert caught.value.failure[0] is Outcome.URL


@given(st.binary(max_size=200), st.booleans())
def test_what_python_reads_is_read_the_same(body: bytes, is_base64: bool) -> None:
    text = base64.b64encode(body).decode() if is_base64 else quote_from_bytes(body)
    address = f"data:image/png{';base64' * is_base64},{text}"
    with urllib.request.urlopen(address) as response:
        assert decoded(address) == response.read() == body


def test_one_that_is_larger_than_a_body_may_be_is_not_decoded() -> None:
    with pytest.raises(KnownFailure) as caught:
        list(DataUrls(100).chunks("data:," + "A" * 500, 0, None))
    assert caught.value.failure[0] is Outcome.TOO_LARGE


def test_the_media_type_is_told() -> None:
    assert media_type(f"data:image/PNG;base64,{PIXEL}") == "image/png"
    assert media_type("data:,x") is None
