"""What is used of aiohttp and protego beyond what they document is there in the installed versions.

Whoever meets a failure here after an upgrade finds in `fetch/library_internals.py` what it is needed for.
"""

from __future__ import annotations

import asyncio
import inspect
from importlib.metadata import version

import aiohttp
import pytest
from yarl import URL

from turbo_fetch.fetch.connections import BoundedConnector, ResponseProtocol
from turbo_fetch.fetch.library_internals import AIOHTTP, ResponseHandler, quote_pattern
from turbo_fetch.fetch.robots import comparable
from turbo_fetch.fetch.socks import SocksConnector

OVERRIDDEN = {
    ResponseProtocol: ResponseHandler,
    BoundedConnector: aiohttp.TCPConnector,
    SocksConnector: aiohttp.TCPConnector,
}


async def _members() -> dict[str, set[str]]:
    async with aiohttp.TCPConnector() as connector:
        instances = {
            "ResponseHandler": ResponseHandler(asyncio.get_running_loop()),
            "TCPConnector": connector,
            "ClientRequest": aiohttp.ClientRequest("GET", URL("http://localhost/")),
        }
        return {name: set(dir(instance)) | set(vars(instance)) for name, instance in instances.items()}


@pytest.mark.parametrize("name", AIOHTTP)
def test_aiohttp_has_what_is_extended(name: str) -> None:
    lacking = set(AIOHTTP[name]) - asyncio.run(_members())[name]
    assert not lacking, f"{name} of aiohttp {version('aiohttp')} has no {', '.join(sorted(lacking))}"


@pytest.mark.parametrize("ours", OVERRIDDEN)
def test_what_is_overridden_is_called_as_before(ours: type) -> None:
    theirs = OVERRIDDEN[ours]
    for name, function in vars(ours).items():
        if inspect.isfunction(function) and name != "__init__" and hasattr(theirs, name):
            parameters = inspect.signature(function).parameters.values()
            wanted = {
                each.name
                for each in parameters
                if each.kind in {each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD}
            }
            found = set(inspect.signature(getattr(theirs, name)).parameters)
            assert wanted <= found, (
                f"{theirs.__name__}.{name} of aiohttp {version('aiohttp')} takes {sorted(found)}"
            )


def test_every_member_that_begins_with_an_underscore_is_listed() -> None:
    listed = {name for names in AIOHTTP.values() for name in names}
    for ours, theirs in OVERRIDDEN.items():
        for name in vars(ours):
            if name.startswith("_") and not name.startswith("__") and hasattr(theirs, name):
                assert name in listed, f"{ours.__name__}.{name}"


def test_protego_quotes_patterns_in_the_form_in_which_paths_are_compared() -> None:
    assert quote_pattern("/a b*") == "/a%20b*"
    assert quote_pattern("/a%20bc$") == "/a%20bc$"
    assert comparable("/a b\N{BULLET}") == "/a%20b%E2%80%A2"
