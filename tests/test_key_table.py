"""Pairs of duplicates and originals: sorted on disk, whatever their number and order."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.duplicates import key_table
from turbo_fetch.duplicates.key_table import by_place

PLACES = st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=300)


@given(places=PLACES, cuts=st.lists(st.integers(0, 300), max_size=8), held=st.integers(1, 40))
def test_pairs_are_sorted_by_place_and_stay_together(places: list[int], cuts: list[int], held: int) -> None:
    pairs = np.array([(place, place ^ 1) for place in places], np.uint64).reshape(-1, 2)
    parts = np.split(pairs, sorted(min(cut, len(pairs)) for cut in cuts))
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(key_table, "PARTS", 4)
        patch.setattr(key_table, "HELD_ROWS", 4 * held)
        found, originals = by_place(iter(parts), Path(folder))
        assert not list(Path(folder).iterdir())
    assert found.tolist() == sorted(places)
    assert originals.tolist() == [place ^ 1 for place in sorted(places)]
