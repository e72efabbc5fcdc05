"""Processes that stand still, stopped by a signal, one of them or all: a run loses no row, a command ends as ever."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random

import psutil

import processes
from attack.campaign import Attack
from attack.commands import Command, arguments_of, commands, environment_of, finished, quiet, refuse_traceback
from attack.scene import Disturbance, Scene, disturbed
from jobs import content_hashes, wait_for_hits
from processes import PATIENCE_S, send

SHORTLY_S = (0.2, 4.0)
"""Longer than a request of the scene may take, at most."""
LONG_S = (30.0, 120.0)


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks, whose server lives as long as the stack."""
    scene = Scene.prepared(stack, folder / "stops", timeout_s=3)
    place = folder / "stopped"
    place.mkdir()
    return [
        Attack("processes that stand still", partial(_run, scene, SHORTLY_S)),
        Attack("processes that stand still for minutes", partial(_run, scene, LONG_S)),
        *(Attack(f"stop {command.name}", partial(_command, command)) for command in commands(stack, place)),
    ]


def _run(scene: Scene, seconds: tuple[float, float], random: Random, folder: Path) -> str | None:
    """Hold a process of a run still for a while, or all of them at once: the parent, a worker, the monitor."""

    def hold(running: subprocess.Popen[str]) -> None:
        wait_for_hits(running, scene.origin, random.randrange(1, 80))
        hold_still(running, random, random.uniform(*seconds))

    failure = disturbed(scene, folder / "run", Disturbance(meanwhile=hold, ends_well=True, goes_on=False))
    if failure is None and content_hashes(folder / "run/out") != scene.quiet:
        return "other bytes than those of a quiet run"
    return failure


def _command(command: Command, random: Random, folder: Path) -> str | None:
    """Hold a process of a command still for a while, or all of them at once."""
    place = Path(shutil.copytree(command.begin, folder / "place"))
    running = processes.start(
        arguments_of(command, 0, place),
        env=environment_of(command, place),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with suppress(subprocess.TimeoutExpired):
        running.wait(random.uniform(0.1, quiet(command).seconds))
    hold_still(running, random, random.uniform(*SHORTLY_S))
    _, text = running.communicate(timeout=PATIENCE_S)
    refuse_traceback(text)
    if running.returncode not in ({0, 1} if command.commands[0][0] == "verify" else {0}):
        return f"ended with {running.returncode}: {text[-1500:]}"
    return finished(command, place, is_begun=False)


def hold_still(running: subprocess.Popen[str], random: Random, seconds: float) -> None:
    """Stop a process of a tree, or all of them; processes may end while they are looked at."""
    with suppress(psutil.NoSuchProcess):
        tree = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
        group = random.choice([*([each] for each in tree), tree])
        send(signal.SIGSTOP, *group)
        time.sleep(seconds)
        send(signal.SIGCONT, *group)
