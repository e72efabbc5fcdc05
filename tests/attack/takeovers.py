"""Commands that stand still when they are about to change a file, until another took over and ended; then they go on.

What one that has lost its output still does must change nothing, wherever it stood: in the output, in the work folder
that both have, before the lease was looked at or just after.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Set
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

from attack.campaign import Attack
from attack.commands import (
    Command,
    arguments_of,
    call,
    commands,
    difference,
    environment_of,
    finished,
    quiet,
    refuse_traceback,
    state,
)
from attack.kills import changes_of, with_hook
from attack.scene import Scene, command
from jobs import content_hashes, manifest
from leases import stands_still, start_command_on, start_on
from processes import PATIENCE_S, files_below, wait_until
from turbo_fetch.errors import OutputHeld

ELSEWHERE = "another machine"
LEASES = "**/.turbo-fetch/lease/*"


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks, whose server lives as long as the stack."""
    scene = Scene.prepared(stack, folder / "takeovers")
    changes: list[int] = []
    place = folder / "taken"
    place.mkdir()
    return [
        *(
            Attack(f"{each.name} that was taken over goes on", partial(_command, each))
            for each in commands(stack, place)
        ),
        *(
            Attack(
                f"a run that was taken over goes on, {name}", partial(_attempt, scene, changes, whom, machine)
            )
            for name, whom, machine in (
                ("all of it", "group", ""),
                ("all of it on another machine", "group", ELSEWHERE),
                ("its parent on another machine", "parent", ELSEWHERE),
            )
        ),
    ]


def _attempt(
    scene: Scene, changes: list[int], whom: str, machine: str, random: Random, folder: Path
) -> str | None:
    if not changes:
        changes.append(_changes(scene, folder / "counted"))
    place = folder / "place"
    place.mkdir()
    hook = _standing_still(folder / "hook", place, whom, random.randint(1, changes[0]))
    first = start_on(machine, scene.spec(place), folder, environment=hook)
    failure = _taken_over(first, whom, lambda: start_on("", scene.spec(place), folder), place, random)
    if failure is not None:
        return failure
    if content_hashes(place / "out") != scene.quiet:
        return "other bytes than those of a quiet run"
    shards = [record["shard"] for record in manifest(place / "out")]
    if shards != sorted(set(shards)):
        return f"the manifest has shards {shards}"
    verified = command(["verify", str(place / "out")])
    if verified.returncode:
        return f"verify ended with {verified.returncode}: {verified.stdout[-800:]}"
    again = start_on("", scene.spec(place), folder)
    return _told(again, {0}) or (
        None if content_hashes(place / "out") == scene.quiet else "other bytes after another run"
    )


def _command(command: Command, random: Random, folder: Path) -> str | None:
    place = Path(shutil.copytree(command.begin, folder / "place"))
    arguments, environment = arguments_of(command, 0, place)[3:], environment_of(command, place)
    hook = _standing_still(folder / "hook", place, "group", random.randint(1, changes_of(command)))
    first = start_command_on(random.choice(("", ELSEWHERE)), arguments, {**environment, **hook})
    # A repair tells of what it repaired.
    well = {0, 1} if arguments[0] == "verify" else {0}
    failure = _taken_over(
        first, "group", lambda: start_command_on("", arguments, environment), place, random, well
    )
    if failure is not None or (first.returncode == 0 and command.has_ended(place)):
        return failure
    for number in range(1, len(command.commands)):
        call(command, number, place)
    expected = quiet(command).state
    # What it left is not another one's to take away while it may go on, but the next one's.
    failure = difference(state(command, place) | {"left": expected["left"]}, expected)
    return failure if failure or command.has_ended(place) else finished(command, place, is_begun=True)


def _standing_still(folder: Path, place: Path, whom: str, change: int) -> dict[str, str]:
    """Return the environment in which a command stands still at a change, all of it or its parent."""
    return with_hook(folder, place) | {"KILL_AT": str(change), "KILL_BY": f"{whom} {signal.SIGSTOP:d}"}


def _taken_over(
    first: subprocess.Popen[str],
    whom: str,
    start: Callable[[], subprocess.Popen[str]],
    place: Path,
    random: Random,
    well: Set[int] = frozenset({0}),
) -> str | None:
    """When a command stands still, let another take over; it goes on soon after that has the output, or has ended.

    Return what is wrong with how they ended.
    """
    try:
        if not stands_still(first, whom):
            return _told(first, well)
        begun = set(files_below(place, LEASES))
        second = start()
        if random.random() < 0.5:
            wait_until(
                "the lease, or the end",
                lambda: second.poll() is not None or set(files_below(place, LEASES)) - begun,
            )
            time.sleep(random.uniform(0, 2))
            os.killpg(first.pid, signal.SIGCONT)
        failure = _told(second, well)
        os.killpg(first.pid, signal.SIGCONT)
        # It had not begun where it had no lease yet, and finds all done.
        return failure or _told(first, {*well, OutputHeld.exit_code})
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()


def _changes(scene: Scene, folder: Path) -> int:
    """Return how often a run changes a file."""
    place = folder / "place"
    place.mkdir(parents=True)
    hook = with_hook(folder / "hook", place)
    assert _told(start_on("", scene.spec(place), folder, environment=hook), {0}) is None
    return Path(hook["KILL_COUNTER"]).stat().st_size


def _told(running: subprocess.Popen[str], expected: Set[int]) -> str | None:
    """Wait for a run to end, and return what is wrong with how it ended."""
    _, text = running.communicate(timeout=PATIENCE_S)
    refuse_traceback(text)
    if running.returncode not in expected:
        return f"ended with {running.returncode}, expected {expected}: {text[-800:]}"
    return None
