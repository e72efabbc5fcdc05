"""Sealed objects: every changed bit is seen, or nothing that is read is other than before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.dataset.seal import SEAL, is_intact, sealed, sealed_for_people

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(min_size=1, max_size=8), VALUES, min_size=1, max_size=4)
WAYS = [sealed, sealed_for_people]


@pytest.mark.parametrize("way", WAYS)
@given(content=OBJECTS)
def test_what_is_sealed_is_intact_and_says_the_same(
    way: Callable[[Mapping[str, Any]], bytes], content: dict[str, Any]
) -> None:
    written = way(content)
    assert is_intact(written)
    found = orjson.loads(written)
    assert {name: value for name, value in found.items() if name != SEAL} == orjson.loads(
        orjson.dumps({name: value for name, value in content.items() if name != SEAL})
    )
    assert way(found) == written


@pytest.mark.parametrize("way", WAYS)
def test_each_changed_bit_is_seen_or_changes_nothing_that_is_read(
    way: Callable[[Mapping[str, Any]], bytes],
) -> None:
    content = {"shard": 3, "files": [{"name": "ä.tar", "sha256": "0" * 64}], "end_time": 1.25e9, "hosts": {}}
    written = way(content)
    for place in range(len(written)):
        for bit in range(8):
            changed = bytearray(written)
            changed[place] ^= 1 << bit
            try:
                found = orjson.loads(changed)
            except orjson.JSONDecodeError:
                continue
            same = {name: found.get(name) for name in content} == content
            assert same or not is_intact(bytes(changed)), (place, bit, bytes(changed))


def test_what_earlier_versions_wrote_is_taken_as_it_is() -> None:
    assert is_intact(b'{"shard": 3}')
    assert is_intact(b'{"files": [{"name": "a", "sha256": "' + b"0" * 64 + b'"}]}')
