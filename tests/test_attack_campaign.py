"""The short form of `make attack`: each kind of attack once, from a seed that is always the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from attack import books, hosts, images, kills, machine
from attack.campaign import Attack, Outcome, make_war, read_found, table

SHORT = {
    images: ("damaged images, jpg", "damaged images, original"),
    hosts: ("unasked bytes on a kept connection", "notations of private addresses, with and without a proxy"),
    books: ("changed bytes in a dataset", "a list changed in one byte"),
    kills: ("kill export",),
    machine: ("files that are deleted in mid-run",),
}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.linux
@pytest.mark.timeout(300)
@pytest.mark.parametrize("module", SHORT, ids=lambda module: module.__name__)
def test_a_short_campaign_finds_nothing(module: object, stack: ExitStack, tmp_path: Path) -> None:
    attacks = {attack.name: attack for attack in module.attacks(stack, tmp_path)}  # type: ignore[attr-defined]
    chosen = [attacks[name] for name in SHORT[module]]  # type: ignore[index]
    outcomes = make_war(chosen, tmp_path / "found", seconds=0, seed=1)
    assert [outcome.failed for outcome in outcomes.values()] == [{}] * len(chosen)


def test_what_was_found_is_tried_first_until_it_holds(tmp_path: Path) -> None:
    tried: list[float] = []
    holds = False

    def attempt(random: Random, folder: Path) -> str | None:
        tried.append(random.random())
        if holds:
            return None
        raise ValueError("broken")

    attack = Attack("an attack", attempt)
    found = tmp_path / "corpus/found"
    first = make_war([attack], found, seconds=0, seed=3)
    assert first == {
        "an attack": Outcome(1, first["an attack"].seconds, {"3 an attack 0": "ValueError: broken"})
    }
    assert "| an attack | 1 | 1 |" in table(first)
    holds = True
    second = make_war([attack], found, seconds=0, seed=4)
    assert (second["an attack"].tried, second["an attack"].failed) == (2, {})
    assert tried[1] == tried[0] == Random("3 an attack 0").random()
    assert read_found(found) == []


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        (["1 write(3</o/a.part>, ..., 9) = 9", 'rename("/o/a.part", "/o/a") = 0'], "before it was synced"),
        (
            [
                "1 write(3</o/a.part>, ..., 9) = 9",
                "2 fsync(3</o/a.part>) = 0",
                'rename("/o/a.part", "/o/a") = 0',
            ],
            None,
        ),
    ],
)
def test_a_rename_before_a_sync_is_seen(calls: list[str], problem: str | None) -> None:
    found = machine.first_unsynced(calls, "/o")
    assert (found is None) if problem is None else (found is not None and problem in found)
