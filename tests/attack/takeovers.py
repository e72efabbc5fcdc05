"""Runs that stand still when they are about to change a file, until another one took over and ended; then they go on.

What a run that has lost its output still does must change nothing, wherever it stood: in the output, in the work folder
that both have, before the lease was looked at or just after.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random

from attack.campaign import Attack
from attack.commands import refuse_traceback
from attack.kills import with_hook
from attack.scene import Scene, command
from jobs import content_hashes, manifest
from leases import stands_still, start_on
from processes import PATIENCE_S, files_below, wait_until
from turbo_fetch.errors import OutputHeld

ELSEWHERE = "another machine"
LEASES = ".turbo-fetch/lease/all.*"


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks, whose server lives as long as the stack."""
    scene = Scene.prepared(stack, folder / "takeovers")
    changes: list[int] = []
    return [
        Attack(f"a run that was taken over goes on, {name}", partial(_attempt, scene, changes, whom, machine))
        for name, whom, machine in (
            ("all of it", "group", ""),
            ("all of it on another machine", "group", ELSEWHERE),
            ("its parent on another machine", "parent", ELSEWHERE),
        )
    ]


def _attempt(
    scene: Scene, changes: list[int], whom: str, machine: str, random: Random, folder: Path
) -> str | None:
    if not changes:
        changes.append(_changes(scene, folder / "counted"))
    place = folder / "place"
    place.mkdir()
    hook = with_hook(folder / "hook", place) | {
        "KILL_AT": str(random.randint(1, changes[0])),
        "KILL_BY": f"{whom} {signal.SIGSTOP:d}",
    }
    first = start_on(machine, scene.spec(place), folder, environment=hook)
    try:
        if not stands_still(first, whom):
            return _told(first, {0})
        is_early = random.random() < 0.5
        return _taken_over(scene, place, folder, first, random.uniform(0, 2) if is_early else None)
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()


def _taken_over(
    scene: Scene, place: Path, folder: Path, first: subprocess.Popen[str], after_s: float | None
) -> str | None:
    """Let another run take over, and the first go on so long after it has the output, or when it has ended.

    Return what is otherwise than in quiet.
    """
    begun = set(files_below(place / "out", LEASES))
    second = start_on("", scene.spec(place), folder)
    if after_s is not None:
        wait_until(
            "the lease, or the end",
            lambda: second.poll() is not None or set(files_below(place / "out", LEASES)) - begun,
        )
        time.sleep(after_s)
        os.killpg(first.pid, signal.SIGCONT)
    failure = _told(second, {0})
    os.killpg(first.pid, signal.SIGCONT)
    # It had not begun where it had no lease yet, and finds all done.
    failure = failure or _told(first, {0, OutputHeld.exit_code})
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


def _changes(scene: Scene, folder: Path) -> int:
    """Return how often a run changes a file."""
    place = folder / "place"
    place.mkdir(parents=True)
    hook = with_hook(folder / "hook", place)
    assert _told(start_on("", scene.spec(place), folder, environment=hook), {0}) is None
    return Path(hook["KILL_COUNTER"]).stat().st_size


def _told(running: subprocess.Popen[str], expected: set[int]) -> str | None:
    """Wait for a run to end, and return what is wrong with how it ended."""
    _, text = running.communicate(timeout=PATIENCE_S)
    refuse_traceback(text)
    if running.returncode not in expected:
        return f"ended with {running.returncode}, expected {expected}: {text[-800:]}"
    return None
