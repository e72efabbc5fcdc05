"""Commands that are killed, when they are about to change a file or at any moment: the same command resumes them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random

import processes
from attack.campaign import Attack
from attack.commands import (
    Command,
    arguments_of,
    commands,
    environment_of,
    finished,
    quiet,
    refuse_traceback,
)
from processes import PATIENCE_S

HOOK = '''
"""Signals the process group, or its first process, at the n-th changes of files with some end: loaded by all."""
import os
import signal
import sys
import threading

_WHOM, _SIGNAL = os.environ["KILL_BY"].split()
_AT = {int(each) for each in os.environ["KILL_AT"].split()}
_PLACE, _NAME = os.environ["KILL_PLACE"], os.environ.get("KILL_NAME", "")
_counter = os.open(os.environ["KILL_COUNTER"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

def _changes(event, arguments):
    if not any(str(each).endswith(_NAME) for each in arguments):
        return False
    if event == "open":
        return isinstance(arguments[2], int) and arguments[2] & _WRITES
    return event in {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree"}

def _strike(group, number):
    if _WHOM == "group" and number == signal.SIGKILL:
        os.killpg(group, number)
    for pid in filter(str.isdigit, os.listdir("/proc") if _WHOM == "group" else [str(group)]):
        try:
            if int(pid) != os.getpid() and os.getpgid(int(pid)) == group:
                os.kill(int(pid), number)
        except ProcessLookupError:
            pass
    if _WHOM == "group" or os.getpid() == group:
        # One to the process may be taken by another thread, and this one goes on for a while.
        signal.pthread_kill(threading.get_ident(), number)

def _hook(event, arguments):
    if event != "open" and not event.startswith(("os.", "shutil.")):
        return
    if _changes(event, arguments) and str(arguments[0]).startswith(_PLACE):
        os.write(_counter, b".")
        if os.fstat(_counter).st_size in _AT:
            _strike(os.getpgid(0), int(_SIGNAL))

sys.addaudithook(_hook)
'''


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks, whose server lives as long as the stack."""
    place = folder / "kills"
    place.mkdir()
    struck = Counter[str]()
    return [
        Attack(f"kill {command.name}", partial(_attempt, command, struck), struck)
        for command in commands(stack, place)
    ]


def _attempt(command: Command, struck: Counter[str], random: Random, folder: Path) -> str | None:
    changes = changes_of(command)
    place = Path(shutil.copytree(command.begin, folder / "place"))
    killed = 0
    for number in range(random.choice((1, 5, 10, 10))):
        hook = with_hook(folder / f"hook{number}", place)
        if random.random() < 0.5:
            was_killed = give(command, place, hook | {"KILL_AT": str(random.randint(1, changes))})
        else:
            after_s = random.uniform(0.1, quiet(command).seconds)
            was_killed = give(command, place, hook, after_s)
        if not was_killed:
            break
        killed += 1
        struck[f"kill {command.name}"] += 1
        if command.has_ended(place):
            break
    else:
        was_killed = True
    try:
        failure = finished(command, place, was_killed)
    except AssertionError as error:
        failure = str(error)
    return None if failure is None else f"after {killed} kills: {failure}"


_known: dict[tuple[Path, str], int] = {}


def changes_of(command: Command) -> int:
    """Return how often the command changes a file."""
    key = (command.begin, command.name)
    if key not in _known:
        folder = command.begin.parent / f"counted {command.name}"
        place = Path(shutil.copytree(command.begin, folder / "place"))
        hook = with_hook(folder / "hook", place)
        give(command, place, hook)
        _known[key] = Path(hook["KILL_COUNTER"]).stat().st_size
    return _known[key]


def with_hook(folder: Path, place: Path) -> dict[str, str]:
    """Return the environment in which a command counts its changes, and kills nobody.

    With KILL_AT it is killed at that change, or stopped at each of several; with KILL_NAME only those of paths with
    that end are counted.
    """
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    return {
        "KILL_AT": "0",
        "KILL_BY": f"group {signal.SIGKILL:d}",
        "KILL_PLACE": str(place),
        "KILL_COUNTER": str(folder / "counter"),
        "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }


def give(command: Command, place: Path, hook: dict[str, str], kill_after_s: float | None = None) -> bool:
    """Give the first of the commands, and return whether it was killed."""
    running = processes.start(
        arguments_of(command, 0, place),
        env={**environment_of(command, place), **hook},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    if kill_after_s is not None:
        with suppress(subprocess.TimeoutExpired):
            running.wait(kill_after_s)
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    _, text = running.communicate(timeout=PATIENCE_S)
    refuse_traceback(text)
    return running.returncode == -signal.SIGKILL
