from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.errors import SpecError
from turbo_fetch.fetch.budget import ByteBudget
from turbo_fetch.fetch.client import Client
from turbo_fetch.redaction import is_secret_header, redact
from turbo_fetch.spec import HttpSpec
from turbo_fetch.spec.specfile import dump_spec_for_others, load_spec, parse_spec

INPUT = {"input": {"urls": "list.txt"}, "output": {"path": "out"}}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@a.example/x.jpg", "https://***@a.example/x.jpg"),
        ("https://a.example/x?X-Amz-Signature=ab&w=1", "https://a.example/x?X-Amz-Signature=***&w=1"),
        ("https://a.example/x?w=1&sig=a%2Fb&se=2", "https://a.example/x?w=1&sig=***&se=2"),
        ("https://a.example/x?access_token=t#f", "https://a.example/x?access_token=***#f"),
        ("moved to https://u@a.example/ now", "moved to https://***@a.example/ now"),
        ("https://a.example/x?monkey=1&w=2&design=3", "https://a.example/x?monkey=1&w=2&design=3"),
        ("https://a.example/#access_token=t", "https://a.example/#access_token=***"),
        (
            "https://a.example/?u=http%3A%2F%2Fu%3Ap%40b%2F&w=1",
            "https://a.example/?u=http%3A%2F%2F***%40b%2F&w=1",
        ),
        (
            "https://a.example/?u=http%3a%2f%2fb%3fsig%3dx&w=1",
            "https://a.example/?u=http%3a%2f%2fb%3fsig%3d***&w=1",
        ),
        ("https://a.example/@me/x.jpg?u=a@b", "https://a.example/@me/x.jpg?u=a@b"),
    ],
)
def test_secrets_in_addresses_are_masked_and_nothing_else(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert redact(shown) == shown


@given(st.text(alphabet="abc=&?@:/;#%", max_size=60))
def test_masking_twice_is_masking_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)


def test_a_header_is_secret_if_the_spec_says_so_or_its_value_is_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC.replace("Authorization", "X-Reason") + '[fetch.http]\nsecret_headers = ["X-Own"]\n')
    spec = load_spec(path, ["fetch.http.headers.x-own=hush"], {"TOKEN": "hush"})
    told = dump_spec_for_others(spec)
    assert "hush" not in told
    assert 'secret_headers = [\n    "X-Own",\n    "X-Reason",\n]' in told


def test_secret_headers_are_known_by_name() -> None:
    secret = [
        "Authorization",
        "proxy-authorization",
        "COOKIE",
        "X-Api-Key",
        "X-Auth-Token",
        "x-amz-security-token",
    ]
    assert all(map(is_secret_header, secret))
    assert not any(map(is_secret_header, ["Accept", "Referer", "X-Reason", "From"]))


def test_a_dataset_tells_no_secret_of_its_spec() -> None:
    http = {
        "headers": {"Authorization": "Bearer hush", "From": "me@example.org"},
        "proxy": "http://me:hush@proxy.example:3128",
        "domains": {"a.example": {"headers": {"Cookie": "hush"}}},
    }
    told = dump_spec_for_others(parse_spec({"fetch": {**INPUT, "http": http}}))
    assert "hush" not in told
    assert 'From = "me@example.org"' in told
    assert 'Authorization = "***"' in told


def test_a_masked_header_is_refused_when_it_is_to_be_sent() -> None:
    with pytest.raises(SpecError, match="Authorization is masked"):
        Client(HttpSpec(headers={"Authorization": "***"}), ByteBudget(1))


SPEC = """
[fetch.input]
urls = "list.txt"
[fetch.output]
path = "out"
[fetch.http.domains."a.example"]
headers = { Authorization = "Bearer ${TOKEN}" }
"""


def test_variables_of_the_environment_are_filled_in_by_the_command_line_only(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    spec = load_spec(path, environment={"TOKEN": "t"})
    assert spec.fetch is not None
    assert spec.fetch.http.domains["a.example"].headers == {"Authorization": "Bearer t"}
    with pytest.raises(SpecError, match="the environment variable TOKEN, which is not set"):
        load_spec(path, environment={})
    with pytest.raises(SpecError, match="only the command line fills in"):
        load_spec(path)


@pytest.mark.parametrize(
    ("http", "message"),
    [
        ({"headers": {"a b": "c"}}, "'a b' is not a valid header name"),
        ({"headers": {"a": "b\r\nc: d"}}, "a contains a control character"),
        ({"proxy": "ftp://x"}, "http://host:port"),
        ({"domains": {"Example.org": {}}}, "is not a domain"),
        ({"domains": {"a.example": {"colour": 1}}}, r'domains."a.example".colour: unknown key'),
        ({"ports": [0]}, "ports"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(http: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec({"fetch": {**INPUT, "http": http}})


@pytest.mark.parametrize(
    ("agent", "has_contact"),
    [
        ("turbo-fetch/{version} (dataset builder; contact unset)", False),
        ("me/1", False),
        ("me/1 (+https://a.example)", True),
        ("me/1 (me@a.example)", True),
    ],
)
def test_a_contact_is_an_address(agent: str, has_contact: bool) -> None:
    assert HttpSpec(user_agent=agent).has_contact is has_contact
