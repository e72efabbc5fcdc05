"""Commands that are killed when they are about to change a file: the same command goes on, to the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import orjson
import pyarrow.parquet as pq

import turbo_fetch
from album import album
from attack.campaign import Attack
from jobs import content_hashes, job_spec, manifest, write_list
from origin import Origin
from turbo_fetch.spec.specfile import dump_spec

HOOK = '''
"""Ends the process group when it is about to change the file with a number: loaded by every Python process."""
import os
import signal
import sys

_AT, _PLACE = int(os.environ["KILL_AT"]), os.environ["KILL_PLACE"]
_counter = os.open(os.environ["KILL_COUNTER"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

def _changes(event, arguments):
    if event == "open":
        return isinstance(arguments[2], int) and arguments[2] & _WRITES
    return event in {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree"}

def _hook(event, arguments):
    if event != "open" and not event.startswith(("os.", "shutil.")):
        return
    if _changes(event, arguments) and str(arguments[0]).startswith(_PLACE):
        os.write(_counter, b".")
        if os.fstat(_counter).st_size == _AT:
            os.killpg(os.getpgid(0), signal.SIGKILL)

sys.addaudithook(_hook)
'''


@dataclass(frozen=True, slots=True)
class Command:
    """A command on a dataset, and where it begins."""

    name: str
    begin: Path
    """A folder with the dataset `out` before the command."""
    commands: Sequence[Sequence[str]]
    """Arguments of turbo-fetch one after the other, with PLACE for the folder; the first is the one that is killed."""


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks, whose server lives as long as the stack."""
    images = album(36, side=40)
    origin = stack.enter_context(Origin(images))
    return [
        Attack(f"kill {command.name}", partial(_attempt, command))
        for command in _commands(origin, images, folder)
    ]


def _commands(origin: Origin, images: dict[str, bytes], folder: Path) -> list[Command]:
    names = list(images)
    rows = [origin.url(name) for name in names]
    rows[25] = origin.url(names[25], "status", code=503, times=1)
    rows[3] = origin.url("missing.jpg")
    listed = write_list(folder / "list.parquet", rows)
    place = folder / "whole"
    spec = job_spec(
        listed,
        place / "out",
        http={"retries": 0},
        output={"samples_per_shard": 12},
        engine={"workers": 1, "threads": 1},
    )
    place.mkdir()
    turbo_fetch.run(spec)
    (place / "job.toml").write_text(dump_spec(spec))
    damaged = Path(shutil.copytree(place, folder / "damaged"))
    content = bytearray((damaged / "out/00001.tar").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "out/00001.tar").write_bytes(content)
    empty = folder / "empty"
    empty.mkdir()
    shutil.copy(place / "job.toml", empty)
    # From now on two images are others, and one is gone.
    origin.pictures = {**images, names[1]: images[names[0]], names[14]: images[names[0]]}
    del origin.pictures[names[30]]
    run = ["run", "PLACE/job.toml", "--set", "fetch.output.path=PLACE/out"]
    export = ["export", "PLACE/out", "PLACE/exported", "--format", "parquet", "--workers", "1"]
    return [
        Command("run", empty, [run]),
        Command("retry", place, [["retry", "PLACE/out"]]),
        Command("refresh", place, [["refresh", "PLACE/out", "--apply", "--drop-gone"]]),
        Command("export", place, [export]),
        Command("export into other shards", place, [[*export, "--samples-per-shard", "7"]]),
        Command("repair", damaged, [["verify", "PLACE/out", "--repair", "--workers", "1"], run]),
    ]


def _attempt(command: Command, random: Random, folder: Path) -> str | None:
    quiet = _quiet(command)
    (folder / "hook").mkdir()
    (folder / "hook/sitecustomize.py").write_text(HOOK)
    place = Path(shutil.copytree(command.begin, folder / "place"))
    killed, code = 0, 0
    for number in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(1, quiet.changes + 1)
        code = _run(command.commands[0], place, folder / "hook", folder / f"counter{number}", at)
        if code != -signal.SIGKILL:
            break
        killed += 1
    # What was not killed came to its end, and would begin anew.
    for arguments in command.commands if code == -signal.SIGKILL else command.commands[1:]:
        code = _run(arguments, place)
        if code not in _fine(arguments):
            return f"{arguments[0]} ended with {code} after {killed} kills"
    found = _state(place)
    if found != quiet.state:
        differing = sorted(
            name for name in {*found, *quiet.state} if found.get(name) != quiet.state.get(name)
        )
        shown = {name: found.get(name) for name in differing}
        return f"after {killed} kills other than undisturbed: {shown}"
    return None


@dataclass(frozen=True, slots=True)
class _Quiet:
    changes: int
    """How often the command changes a file."""
    state: dict[str, object]
    """What it leaves."""


_known: dict[Path, dict[str, _Quiet]] = {}


def _quiet(command: Command) -> _Quiet:
    """Return what comes of the command if it is left in peace."""
    known = _known.setdefault(command.begin, {})
    if command.name not in known:
        folder = command.begin.parent / f"quiet {command.name}"
        (folder / "hook").mkdir(parents=True)
        (folder / "hook/sitecustomize.py").write_text(HOOK)
        place = Path(shutil.copytree(command.begin, folder / "place"))
        counter = folder / "counter"
        for number, arguments in enumerate(command.commands):
            hook = (folder / "hook", counter, 0) if number == 0 else ()
            code = _run(arguments, place, *hook)
            assert code in _fine(arguments), (arguments, code)
        known[command.name] = _Quiet(counter.stat().st_size, _state(place))
    return known[command.name]


def _fine(arguments: Sequence[str]) -> set[int]:
    # A repair tells of what it repaired.
    return {0, 1} if arguments[0] == "verify" else {0}


def _run(
    arguments: Sequence[str], place: Path, hook: Path | None = None, counter: Path | None = None, at: int = 0
) -> int:
    environment = dict(os.environ)
    if hook is not None:
        environment |= {"KILL_AT": str(at), "KILL_PLACE": str(place), "KILL_COUNTER": str(counter)}
        environment["PYTHONPATH"] = f"{hook}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-m", "turbo_fetch", *(word.replace("PLACE", str(place)) for word in arguments)],
        env=environment,
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "Traceback" in done.stderr or "a bug in" in done.stderr:
        raise AssertionError(done.stderr[-2000:])
    return done.returncode


def _state(place: Path) -> dict[str, object]:
    """Return what must be the same: the data, the records, the report of a refresh, and that no work is left."""
    state: dict[str, object] = {}
    for output in sorted(path.parent for path in place.glob("*/.turbo-fetch")):
        state |= {f"{output.name}/{name}": digest for name, digest in content_hashes(output).items()}
        # Ledgers have times, and with them other hashes each time.
        state[f"{output.name}/manifest"] = [
            {**record, "files": [file["name"] for file in record["files"]]} for record in manifest(output)
        ]
        state[f"{output.name}/job"] = orjson.loads((output / ".turbo-fetch/job").read_bytes())["essentials"]
        refreshed = output.glob(".turbo-fetch/refresh/*.refresh")
        state |= {
            f"{output.name}/{path.name}": pq.read_table(path)["drift"].to_pylist() for path in refreshed
        }
        left = [
            path.name
            for path in (output / ".turbo-fetch").iterdir()
            if path.suffix in {".spool", ".part", ".tmp"}
        ]
        state[f"{output.name} left"] = left
    return state
