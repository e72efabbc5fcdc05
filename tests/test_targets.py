"""Shards of an export: every row once and in order, each as full as its limit allows."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from turbo_fetch.dataset.reader import StoredShard
from turbo_fetch.maintenance.targets import Part, Target, by_rows, cut, same_shards

SIZES = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), max_size=6)


def _rows(targets: list[Target]) -> list[list[tuple[int, int]]]:
    return [
        [(part.shard.number, row) for part in target.parts for row in range(part.start, part.stop)]
        for target in targets
    ]


@given(SIZES, st.integers(1, 120))
def test_every_row_comes_once_and_no_shard_could_have_taken_the_next(
    sizes: list[list[int]], most: int
) -> None:
    shards = [StoredShard(number, str(number), len(rows)) for number, rows in enumerate(sizes)]
    targets = list(cut(shards, lambda shard: np.cumsum(sizes[shard.number]), most))
    rows = _rows(targets)
    assert [target.number for target in targets] == list(range(len(targets)))
    assert list(itertools.chain(*rows)) == [
        (shard.number, row) for shard in shards for row in range(shard.rows)
    ]
    totals = [sum(sizes[shard][row] for shard, row in each) for each in rows]
    assert all(total <= most or len(each) == 1 for total, each in zip(totals, rows, strict=True))
    firsts = [sizes[each[0][0]][each[0][1]] for each in rows[1:]]
    assert all(total + first > most for total, first in zip(totals, firsts, strict=False))
    assert all(part.start < part.stop for target in targets for part in target.parts)


@given(st.lists(st.integers(1, 20), max_size=6), st.integers(1, 30))
def test_shards_of_so_many_rows_have_just_so_many_but_the_last(counts: list[int], size: int) -> None:
    shards = [StoredShard(number, str(number), rows) for number, rows in enumerate(counts)]
    targets = list(by_rows(shards, size))
    assert [target.rows for target in targets[:-1]] == [size] * (len(targets) - 1)
    assert sum(target.rows for target in targets) == sum(counts)


def test_shards_stay_the_same_if_nothing_else_is_asked_for() -> None:
    shards = [StoredShard(number, str(number), rows) for number, rows in enumerate((5, 1, 7))]
    assert [target.parts for target in same_shards(shards)] == [
        (Part(shard, 0, shard.rows),) for shard in shards
    ]
    assert list(same_shards([])) == []
