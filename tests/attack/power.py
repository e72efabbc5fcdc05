"""Power loss at any moment of a command: from whatever the disk may hold then, the same command goes on.

The calls of an undisturbed command are recorded, and made again on a model of the disk up to that moment.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from attack.campaign import Attack
from attack.commands import Command, arguments_of, commands, finished, quiet, state
from attack.disk import Disk
from attack.recording import Call, Replay, record


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a command did in a place."""

    place: Path
    """The same for all that is tried, since datasets name the places of others."""
    calls: Sequence[Call]


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks, whose server lives as long as the stack; none without strace."""
    if shutil.which("strace") is None:
        return []
    place = folder / "power"
    place.mkdir()
    found = [command for command in commands(stack, place) if command.hub is None]
    return [
        *(Attack(f"power loss during {command.name}", partial(_during, command)) for command in found),
        *(Attack(f"power loss after {command.name}", partial(_after, command)) for command in found),
    ]


def _during(command: Command, random: Random, folder: Path) -> str | None:
    recorded = _recorded(command)
    moments = list(range(1, len(recorded.calls) + 1))
    if random.random() < 0.5:
        moments = [number for number in moments if recorded.calls[number - 1].changes_names]
    moment = random.choice(moments) - random.randint(0, 1)
    _lose_power(command, recorded, moment, random)
    try:
        failure = finished(command, recorded.place, is_begun=True)
    except AssertionError as error:
        failure = str(error)
    return None if failure is None else f"after {moment} of {len(recorded.calls)} calls: {failure}"


def _after(command: Command, random: Random, folder: Path) -> str | None:
    """Lose power when the command has ended, with all that no sync has brought to disk."""
    recorded = _recorded(command)
    _lose_power(command, recorded, len(recorded.calls), None)
    if len(command.commands) > 1:
        return finished(command, recorded.place, is_begun=False)
    found, expected = state(command, recorded.place), quiet(command).state
    lost = {name for name in {*found, *expected} if found.get(name) != expected.get(name)}
    return f"what was told to be done is not on disk: {sorted(lost)}" if lost else None


def _lose_power(command: Command, recorded: Recorded, moment: int, random: Random | None) -> None:
    """Leave in the place what the disk may hold after so many calls."""
    replay = Replay(Disk.of(command.begin), str(recorded.place))
    for call in recorded.calls[:moment]:
        replay.make(call)
    shutil.rmtree(recorded.place)
    recorded.place.mkdir()
    for name, file in replay.disk.after_power_loss(random).items():
        path = recorded.place / name
        if file is None:
            path.mkdir()
        else:
            path.write_bytes(file.synced)
            os.utime(path, (file.changed_s, file.changed_s))


_known: dict[tuple[Path, str], Recorded] = {}


def _recorded(command: Command) -> Recorded:
    key = (command.begin, command.name)
    if key not in _known:
        folder = command.begin.parent / f"recorded {command.name}"
        place = Path(shutil.copytree(command.begin, folder / "place"))
        calls = record(arguments_of(command, 0, place), place, folder / "calls")
        replay = Replay(Disk.of(command.begin), str(place))
        for call in calls:
            replay.make(call)
        found = {
            path.relative_to(place).as_posix(): path.read_bytes() if path.is_file() else None
            for path in place.rglob("*")
        }
        modelled = replay.disk.tree()
        other = {name for name in {*found, *modelled} if found.get(name, ...) != modelled.get(name, ...)}
        assert not other, f"the model of the disk is not what was there: {sorted(other)}"
        _known[key] = Recorded(place, calls)
    return _known[key]
