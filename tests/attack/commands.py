"""Commands on small datasets, and what each leaves if nothing disturbs it: what kills and power losses are tried on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pyarrow.parquet as pq

import turbo_fetch
from album import album
from dataset_hub import TOKEN, DatasetHub, dataset_hub
from jobs import content_hashes, job_spec, manifest, write_list
from old_layout import put_back
from origin import Origin
from processes import PATIENCE_S
from turbo_fetch.dataset.description import has_old_layout
from turbo_fetch.dataset.place import open_place
from turbo_fetch.spec.specfile import dump_spec

WORK_SUFFIXES = {".spool", ".part", ".tmp"}
JOURNAL = {"waiting", "leaving"}
"""Folders of what waits for a commit to the Hub."""
RUN = ("run", "PLACE/job.toml", "--set", "fetch.output.path=PLACE/out")
SIMPLY = ("--set", "fetch.duplicates.by=[]")
FORMATS = ("files", "parquet", "parquet_bytes", "lmdb", "tfrecord")
"""Those of `run` besides webdataset."""
EXPORT = ("export", "BEGIN/out", "PLACE/exported", "--format", "parquet", "--workers", "1")
NEXT = ("verify", "PLACE/out", "--repair", "--workers", "1")
MERGE = ("export", "PLACE/out", "PLACE/merged.lmdb", "--format", "lmdb", "--merge")


@dataclass(frozen=True, slots=True)
class Command:
    """A command on a dataset, and where it begins."""

    name: str
    begin: Path
    """A folder with the dataset `out` before the command."""
    commands: Sequence[Sequence[str]]
    """Arguments of turbo-fetch one after the other, with PLACE for the folder, and HUB for a repository of its own; the
    first is the one that is killed. BEGIN is where it begins, each time the same, for what is cut anew names it."""
    hub: DatasetHub | None = None
    """What it writes to, if not to the folder."""
    has_ended: Callable[[Path], bool] = lambda place: False
    """Whether in a place it has come to its end, after which it would begin anew, though it was disturbed then."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """A command that nothing disturbed."""

    seconds: float
    state: dict[str, object]
    """What it leaves."""


def commands(stack: ExitStack, folder: Path) -> list[Command]:
    """Return the commands, whose server lives as long as the stack; their datasets are made in `folder`."""
    images = album(36, side=40)
    names = list(images)
    origin = stack.enter_context(Origin(images))
    rows = [origin.url(name) for name in names]
    rows[3] = origin.url("missing.jpg")
    rows[20] = origin.url(names[2])
    # It fails the first time, so that the row after it is no duplicate until it is retried.
    rows[25] = origin.url(names[25], "status", code=503, times=1)
    rows[31] = origin.url(names[25])
    place = folder / "whole"
    place.mkdir()
    listed = write_list(folder / "list.parquet", rows)
    spec = job_spec(
        listed,
        place / "out",
        http={"retries": 0},
        output={"samples_per_shard": 12},
        duplicates={"by": ["hash"]},
        engine={"workers": 1, "threads": 1},
    )
    turbo_fetch.run(spec)
    (place / "job.toml").write_text(dump_spec(spec))
    damaged = Path(shutil.copytree(place, folder / "damaged"))
    old = Path(shutil.copytree(place, folder / "old"))
    put_back(old / "out")
    more = write_list(folder / "more.parquet", [f"{origin.url(name)}?again" for name in names[:30]])
    hub = stack.enter_context(dataset_hub())
    content = bytearray((damaged / "out/00001.tar").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "out/00001.tar").write_bytes(content)
    empty = folder / "empty"
    empty.mkdir()
    shutil.copy(place / "job.toml", empty)
    # From now on two images are others, and one is gone.
    origin.pictures = {**images, names[1]: images[names[0]], names[14]: images[names[0]]}
    del origin.pictures[names[30]]
    return [
        Command("run", empty, [[*RUN, *SIMPLY]]),
        *(
            Command(f"run into {kind}", empty, [[*RUN, *SIMPLY, "--set", f"fetch.output.format={kind}"]])
            for kind in FORMATS
        ),
        Command("run without duplicates by content", empty, [RUN]),
        Command("run in parts", empty, [[*RUN, *SIMPLY, "--shards", f"{part}/2"] for part in range(2)]),
        Command(
            "run with a further list",
            place,
            [[*RUN, "--set", f"fetch.input.urls={more}", "--set", "fetch.output.if_exists=extend"]],
        ),
        Command("run that overwrites", place, [[*RUN, "--set", "fetch.output.if_exists=overwrite"]]),
        Command("run into the Hub", empty, [[*RUN, *SIMPLY, "--set", "fetch.output.path=HUB"]], hub),
        Command("retry", place, [["retry", "PLACE/out"]]),
        Command(
            "refresh", place, [["refresh", "PLACE/out", "--apply", "--drop-gone"]], has_ended=_is_refreshed
        ),
        Command("export", place, [EXPORT]),
        Command("export into other shards", place, [[*EXPORT, "--samples-per-shard", "7"]]),
        Command("merge", place, [MERGE]),
        Command("repair", damaged, [["verify", "PLACE/out", "--repair", "--workers", "1"], RUN]),
        Command("migrate", old, [["migrate", "PLACE/out"]], has_ended=_is_migrated),
        Command("push", place, [["push", "PLACE/out", "HUB"]], hub),
    ]


_known: dict[tuple[Path, str], Quiet] = {}


def quiet(command: Command) -> Quiet:
    """Return what comes of the command if it is left in peace."""
    key = (command.begin, command.name)
    if key not in _known:
        place = Path(shutil.copytree(command.begin, command.begin.parent / f"quiet {command.name}"))
        began_s = time.monotonic()
        call(command, 0, place)
        took_s = time.monotonic() - began_s
        for number in range(1, len(command.commands)):
            call(command, number, place)
        _known[key] = Quiet(took_s, state(command, place))
    return _known[key]


def finished(command: Command, place: Path, is_begun: bool) -> str | None:
    """Give the command again after it was disturbed, and return what is otherwise than undisturbed.

    One that was not even begun to be disturbed came to its end, and would begin anew.
    """
    expected = quiet(command).state
    has_ended = not is_begun or command.has_ended(place)
    for number in range(1 if has_ended else 0, len(command.commands)):
        call(command, number, place)
    if is_begun and has_ended:
        # What it left is the next command's to take away, whichever that is.
        call(replace(command, commands=[NEXT]), 0, place)
    return difference(state(command, place), expected)


def difference(found: Mapping[str, object], expected: Mapping[str, object]) -> str | None:
    """Return what is otherwise than undisturbed."""
    if found != expected:
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        return f"other than undisturbed: { {name: (found.get(name), expected.get(name)) for name in names} }"
    return None


def arguments_of(command: Command, number: int, place: Path) -> list[str]:
    """Return the whole command line of one of the commands."""
    words = [
        word.replace("PLACE", str(place)).replace("BEGIN", str(command.begin))
        for word in command.commands[number]
    ]
    hub = f"hf://datasets/{_repository(place)}"
    return [sys.executable, "-m", "turbo_fetch", *(word.replace("HUB", hub) for word in words)]


def environment_of(command: Command, place: Path) -> Mapping[str, str]:
    """Return the environment of the commands; what waits for a commit to the Hub does so in the place."""
    if command.hub is None:
        return os.environ
    hub = {"HF_ENDPOINT": command.hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    homes = {"HF_HOME": str(place.parent / "hf"), "XDG_CACHE_HOME": str(place / "cache")}
    return {**os.environ, **hub, **homes}


def call(command: Command, number: int, place: Path) -> None:
    """Give one of the commands; AssertionError if it does not end well."""
    done = subprocess.run(
        arguments_of(command, number, place),
        env=environment_of(command, place),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    refuse_traceback(done.stderr)
    name = command.commands[number][0]
    # A repair tells of what it repaired.
    if done.returncode not in ({0, 1} if name == "verify" else {0}):
        raise AssertionError(f"{name} ended with {done.returncode}: {done.stderr[-1500:]}")


def refuse_traceback(text: str) -> None:
    """Raise AssertionError if a command ended in a traceback."""
    if "Traceback" in text or "a bug in" in text:
        raise AssertionError(text[:1500] + text[-1500:])


def state(command: Command, place: Path) -> dict[str, object]:
    """Return what must be the same: the data, the records, the report of a refresh, and that no work is left."""
    found: dict[str, object] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.glob("merged.*")
    }
    for output in sorted(path.parent for path in place.glob("*/.turbo-fetch")):
        found |= {f"{output.name}/{name}": digest for name, digest in content_hashes(output).items()}
        # Ledgers have times, and with them other hashes each time.
        found[f"{output.name}/manifest"] = [
            {**record, "files": [file["name"] for file in record["files"]]} for record in manifest(output)
        ]
        found[f"{output.name}/job"] = orjson.loads((output / ".turbo-fetch/job").read_bytes())["essentials"]
        refreshed = output.glob(".turbo-fetch/refresh/*.refresh")
        found |= {
            f"{output.name}/{path.name}": pq.read_table(path)["drift"].to_pylist() for path in refreshed
        }
    if command.hub is not None:
        found["hub"] = _state_of(command.hub, _repository(place))
    left = [path for path in place.rglob("*") if path.suffix in WORK_SUFFIXES or path.parent.name in JOURNAL]
    found["left"] = sorted(path.relative_to(place).as_posix() for path in left)
    return found


def _is_refreshed(place: Path) -> bool:
    state = place / "out/.turbo-fetch/refresh/run"
    return state.exists() and orjson.loads(state.read_bytes())["complete"]


def _is_migrated(place: Path) -> bool:
    return not has_old_layout(open_place(str(place / "out")))


def _repository(place: Path) -> str:
    return f"attacked/{hashlib.sha256(str(place).encode()).hexdigest()[:16]}"


def _state_of(hub: DatasetHub, repository: str) -> dict[str, object]:
    """Return of a repository what must be the same: the data, and which files the shards have."""
    files = hub.repos[repository].files
    records = map(orjson.loads, files[".turbo-fetch/manifest"].splitlines())
    data = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if not name.startswith(".") and not name.endswith((".md", ".json", ".html"))
    }
    has = [[(file["name"], file["name"] in files) for file in record["files"]] for record in records]
    return {
        "data": data,
        "records": has,
        "stats": sorted(name for name in files if name.endswith("_stats.json")),
    }
