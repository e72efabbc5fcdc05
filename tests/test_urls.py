"""URLs as they are parsed, and the order that spreads their domains."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch import _native
from turbo_fetch.plan.urls import MALFORMED_MARK, parse_urls

domain_lists = st.lists(st.sampled_from(["a", "b", "c", "d", "e", None]), max_size=60)


def spread(domains: Sequence[str | None], seed: int = 0) -> list[int]:
    order: list[int] = pa.array(_native.spread(pa.array(domains, pa.string()), seed)).to_pylist()
    return order


@pytest.mark.parametrize(
    ("text", "normalised", "host", "domain"),
    [
        (
            "https://cdn.example.co.uk/a.jpg",
            "https://cdn.example.co.uk/a.jpg",
            "cdn.example.co.uk",
            "example.co.uk",
        ),
        ("  HTTP://EXAMPLE.com:80/ü b#c \r\n", "http://example.com/%C3%BC%20b", "example.com", "example.com"),
        (
            "http://bücher.example/",
            "http://xn--bcher-kva.example/",
            "xn--bcher-kva.example",
            "xn--bcher-kva.example",
        ),
        ("http://0x7f.1:8080/", "http://127.0.0.1:8080/", "127.0.0.1", "127.0.0.1"),
        ("http://[::1]/", "http://[::1]/", "[::1]", "[::1]"),
        ("http://a.user.github.io/", "http://a.user.github.io/", "a.user.github.io", "user.github.io"),
        ('http://x.example/a,b"c', "http://x.example/a,b%22c", "x.example", "x.example"),
    ],
)
def test_a_good_url_is_normalised(text: str, normalised: str, host: str, domain: str) -> None:
    parsed = parse_urls(pa.array([text]))
    assert (parsed.normalised, parsed.host, parsed.domain, parsed.error) == (
        [normalised],
        [host],
        [domain],
        [None],
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "no URL"),
        ("", "no URL"),
        (" \t", "no URL"),
        ("image.jpg", "no scheme"),
        ("file:///etc/passwd", 'scheme "file"'),
        ("data:image/png;base64,AA", 'scheme "data"'),
        ("http://user:word@a.example/", "user name or password"),
        ("http://a.example/\0", "control character U+0000"),
        ("http://a.example/\ufffd", "UTF-8"),
        (f"{MALFORMED_MARK}http://a.example/,b", "not well-formed"),
        ("http://" + "a" * 70_000, "70007 bytes"),
        ("http://a..b^/", "domain"),
    ],
)
def test_a_bad_url_is_an_error_in_its_row(text: str | None, error: str) -> None:
    parsed = parse_urls(pa.array([text, "http://a.example/"], pa.string()))
    assert parsed.error[0] is not None
    assert error in parsed.error[0]
    assert parsed.normalised == [None, "http://a.example/"]
    assert parsed.error[1] is None


@given(st.lists(st.one_of(st.none(), st.text(), st.text().map("http://a.example/{}".format))))
def test_any_text_gives_one_row_with_an_address_or_an_error(texts: list[str | None]) -> None:
    parsed = parse_urls(pa.array(texts, pa.string()))
    assert len(parsed.normalised) == len(texts)
    for normalised, host, domain, error in zip(
        parsed.normalised, parsed.host, parsed.domain, parsed.error, strict=True
    ):
        assert (error is None) == (normalised is not None) == (host is not None) == (domain is not None)
        if normalised is not None and host is not None and domain is not None:
            assert normalised.isascii()
            assert normalised.startswith("http")
            assert host.rstrip(".").endswith(domain)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\ufffd")))
def test_a_normalised_url_stays_as_it_is(path: str) -> None:
    once = parse_urls(pa.array([f"https://a.example/{path}"])).normalised
    assert parse_urls(pa.array(once, pa.string())).normalised == once


def test_text_that_claims_to_be_utf_8_is_checked() -> None:
    offsets, data = pa.array([0, 18], pa.int32()).buffers()[1], pa.py_buffer(b"http://a.example/\xff")
    parsed = parse_urls(pa.StringArray.from_buffers(1, offsets, data))
    assert parsed.error == ["not valid UTF-8"]


@given(domain_lists, st.integers(0, 2**64 - 1))
def test_spread_is_a_permutation_that_depends_only_on_domains_and_seed(
    domains: list[str | None], seed: int
) -> None:
    order = spread(domains, seed)
    assert sorted(order) == list(range(len(domains)))
    assert order == spread(domains, seed)


@given(domain_lists, st.integers(0, 100))
def test_spread_has_no_longer_runs_than_necessary(domains: list[str | None], seed: int) -> None:
    most = max(Counter(domains).values(), default=0)
    necessary = -(-most // (len(domains) - most + 1))
    runs = [len(list(run)) for _, run in groupby(spread(domains, seed), lambda row: domains[row])]
    assert max(runs, default=0) == necessary


@given(domain_lists)
def test_spread_keeps_the_order_within_a_domain(domains: list[str | None]) -> None:
    order = spread(domains)
    for domain in set(domains):
        rows = [row for row in order if domains[row] == domain]
        assert rows == sorted(rows)


def test_spread_gives_every_stretch_its_share_of_a_domain() -> None:
    domains = ["busy"] * 3_000 + [f"host{number}" for number in range(27_000)]
    order = spread(domains)
    shares = [sum(domains[row] == "busy" for row in order[at : at + 1000]) for at in range(0, 30_000, 1000)]
    assert min(shares) >= 95
    assert max(shares) <= 105


def _steps_meanwhile() -> int:
    """Return how often a thread of Python had its turn while URLs were parsed."""
    urls = pa.array([f"https://host{number}.example/{number}" for number in range(200_000)])
    steps: list[float] = []
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            steps.append(time.perf_counter())
            done.wait(0.0005)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        start = time.perf_counter()
        _native.parse_urls(urls)
        end = time.perf_counter()
    finally:
        done.set()
        thread.join()
    return sum(start + 0.002 < step < end - 0.002 for step in steps)


def test_two_calls_run_at_the_same_time() -> None:
    """The GIL is released; a call that kept it would leave no turn, however often it is tried."""
    assert any(_steps_meanwhile() >= 3 for _ in range(5))


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a string type"):
        _native.parse_urls(pa.array([1]))
    with pytest.raises(ValueError, match="domains as strings"):
        _native.spread(pa.array([1]), 0)
