"""The short form of `make attack`: each kind of attack once, from a seed that is always the same."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

import pytest

from attack import books, hosts, images, kills, machine, pace, places, power, stops, takeovers
from attack.campaign import Attack, Outcome, make_war, read_found, table
from attack.disk import Disk, File, Write
from attack.recording import Replay, record

SHORT = {
    images: ("damaged images, jpg", "damaged images, original"),
    hosts: ("unasked bytes on a kept connection", "notations of private addresses, with and without a proxy"),
    pace: ("paces and limits of domains of several hosts",),
    books: ("changed bytes in a dataset", "a list changed in one byte"),
    kills: ("kill export",),
    stops: ("stop merge",),
    takeovers: ("a run that was taken over goes on, its parent on another machine",),
    machine: ("clocks that are set by hours",),
    places: ("an output folder that is removed in mid-run",),
    power: ("power loss during export",),
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
    chosen = [attacks[name] for name in SHORT[module] if name in attacks]  # type: ignore[index]
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
        "an attack": Outcome(1, 0, first["an attack"].seconds, {"3 an attack 0": "ValueError: broken"})
    }
    assert "| an attack | 1 | 1 | 1 |" in table(first)
    holds = True
    second = make_war([attack], found, seconds=0, seed=4)
    assert (second["an attack"].tried, second["an attack"].failed) == (2, {})
    assert tried[1] == tried[0] == Random("3 an attack 0").random()
    assert read_found(found) == []


def test_a_campaign_that_is_interrupted_tells_what_it_has_tried(tmp_path: Path) -> None:
    tried: list[str] = []

    def attempt(random: Random, folder: Path) -> str | None:
        if len(tried) == 5:
            raise KeyboardInterrupt
        tried.append("once more")
        return "broken" if len(tried) == 4 else None

    attacks = [Attack(name, attempt) for name in ("first", "second")]
    outcomes = make_war(attacks, tmp_path / "found", seconds=1000, seed=3)
    assert [outcome.tried for outcome in outcomes.values()] == [3, 2]
    assert read_found(tmp_path / "found") == [("second", "3 second 1")]


def test_of_attacks_that_count_together_the_one_that_has_struck_least_has_the_next_turn(
    tmp_path: Path,
) -> None:
    struck, tried = Counter[str](), list[str]()

    def attempt(name: str, times: int, random: Random, folder: Path) -> str | None:
        tried.append(name)
        struck[name] += times
        if len(tried) == 9:
            raise KeyboardInterrupt
        return None

    strikes = {"seldom": 1, "often": 3}
    attacks = [Attack(name, partial(attempt, name, times), struck) for name, times in strikes.items()]
    make_war([*attacks, Attack("alone", partial(attempt, "alone", 0))], tmp_path / "found", 1000, seed=3)
    assert tried == ["seldom", "often", "alone", "seldom", "seldom", "alone", "often", "seldom", "alone"]


def _disk(tmp_path: Path) -> Disk:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    return Disk.of(tmp_path)


def test_power_loss_keeps_what_was_synced_and_nothing_else_for_certain(tmp_path: Path) -> None:
    disk = _disk(tmp_path)
    disk.file("new").pending.append(Write(0, b"new"))
    disk.rename("new", "folder/renamed")
    disk.remove("old")

    def certain() -> dict[str, bytes | None]:
        return {
            name: None if file is None else file.synced for name, file in disk.after_power_loss(None).items()
        }

    assert certain() == {"folder": None, "old": b"old"}
    disk.sync("folder/renamed")
    assert certain() == {"folder": None, "old": b"old"}
    disk.sync("folder")
    assert certain() == {"folder": None, "old": b"old", "folder/renamed": b"new"}
    disk.sync("")
    assert certain() == {"folder": None, "folder/renamed": b"new"}


def test_power_loss_may_leave_any_part_of_what_was_not_synced(tmp_path: Path) -> None:
    disk = _disk(tmp_path)
    file = disk.find("old")
    assert isinstance(file, File)
    file.pending += [Write(3, b"er"), Write(0, b"other"), Write(2, None)]
    disk.rename("old", "folder/old")
    seen = set()
    for seed in range(300):
        left = disk.after_power_loss(Random(seed))
        (name, found), *more = [(name, file) for name, file in left.items() if file is not None]
        assert not more
        seen.add((name, found.synced))
    assert {name for name, _ in seen} == {"old", "folder/old"}
    assert {b"old", b"older", b"ot", b"otder"} <= {content for _, content in seen}
    assert {len(content) for _, content in seen} <= {2, 3, 4, 5}


@pytest.mark.linux
@pytest.mark.skipif(shutil.which("strace") is None, reason="takes strace")
def test_what_a_program_does_to_files_is_replayed_to_what_it_left(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "begun").write_bytes(b"0123456789")
    before = Disk.of(place)
    replay = Replay(before, str(place))
    for call in record([sys.executable, "-c", PROGRAM, str(place)], place, tmp_path / "log"):
        replay.make(call)
    left = {
        path.relative_to(place).as_posix(): path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
    }
    assert replay.disk.tree() == left
    assert len(left) > 4


PROGRAM = """
import os, shutil, sys, threading
from pathlib import Path
place = Path(sys.argv[1])
with (place / "begun").open("r+b") as file:
    file.seek(4); file.write(b"ab"); file.flush(); file.truncate(8); os.fsync(file.fileno())
(place / "in/folder").mkdir(parents=True)
with (place / "in/added").open("ab") as file:
    file.write(b"x" * 10); file.flush(); file.write(b"y")
descriptor = os.open(place / "in/pieces", os.O_RDWR | os.O_CREAT)
os.pwritev(descriptor, [b"one", b"two"], 5); os.write(descriptor, b"start")
(place / "in/pieces").rename(place / "in/folder/pieces")
os.write(descriptor, b"after"); os.close(descriptor)
os.link(place / "begun", place / "linked")
threads = [threading.Thread(target=(place / f"by-{number}").write_bytes, args=[b"t" * number]) for number in range(9)]
[each.start() for each in threads]; [each.join() for each in threads]
(place / "by-3").unlink()
(place / "gone/deep").mkdir(parents=True); (place / "gone/deep/file").touch(); shutil.rmtree(place / "gone")
os.fsync(os.open(place, os.O_RDONLY))
"""
