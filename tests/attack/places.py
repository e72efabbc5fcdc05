"""Places that fail in mid-run: full, read-only, or gone, in part or altogether."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random

from attack.campaign import Attack
from attack.scene import Disturbance, Scene, disturbed
from jobs import content_hashes, wait_for_hits
from processes import PATIENCE_S, files_below

HIDDEN = (
    "*.spool",
    "documents.sqlite*",
    "manifest",
    "job",
    "lock",
    ".staged.*",
    ".staged.*/*",
    "ledger/*",
    "",
)


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks, whose server lives as long as the stack; those that take a right only with it."""
    scene = Scene.prepared(stack, folder / "places")
    found = [
        Attack("files that are deleted in mid-run", partial(_deleted, scene)),
        Attack("an output folder that is removed in mid-run", partial(_removed, scene)),
    ]
    if may_mount(folder):
        found += [
            Attack("a disk that turns read-only in mid-run", partial(_read_only, scene)),
            Attack("a disk that is full at some write", partial(_full, scene)),
        ]
    return found


def _deleted(scene: Scene, random: Random, folder: Path) -> str | None:
    what = random.choice(HIDDEN)

    def delete(running: subprocess.Popen[str]) -> None:
        wait_for_hits(running, scene.origin, random.randrange(1, 150))
        place = folder / "run/out/.turbo-fetch"
        for path in files_below(place, what) if what else [place]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    # A dataset without its job is none that can be gone on with.
    by = Disturbance(meanwhile=delete, goes_on=what not in {"", "job"})
    failure = disturbed(scene, folder / "run", by)
    return None if failure is None else f"deleted {what or 'the work folder'}: {failure}"


def _removed(scene: Scene, random: Random, folder: Path) -> str | None:
    out = folder / "run/out"
    told: list[str] = []

    def remove(running: subprocess.Popen[str]) -> None:
        wait_for_hits(running, scene.origin, random.randrange(1, 150))
        was_running = running.poll() is None
        shutil.rmtree(out, ignore_errors=True)
        if was_running and running.wait(timeout=PATIENCE_S) == 0 and content_hashes(out) != scene.quiet:
            told.append("the run ended with 0, and the dataset is not whole")

    def clear() -> None:
        # What is left without a job is not a dataset, and not the user's either.
        if not (out / ".turbo-fetch/job").exists():
            shutil.rmtree(out, ignore_errors=True)

    failure = disturbed(scene, folder / "run", Disturbance(meanwhile=remove, after=clear))
    return told[0] if told else failure


def _read_only(scene: Scene, random: Random, folder: Path) -> str | None:
    with _mounted(folder / "disk", "64m") as place:

        def turn(running: subprocess.Popen[str]) -> None:
            wait_for_hits(running, scene.origin, random.randrange(1, 150))
            # What is open for writing would keep the disk from turning; an error of the device would not ask either.
            _remount(place, "ro")
            if running.poll() is None and not os.access(place, os.W_OK):
                running.wait(timeout=PATIENCE_S)
            _remount(place, "rw")

        return disturbed(scene, place, Disturbance(meanwhile=turn))


def _full(scene: Scene, random: Random, folder: Path) -> str | None:
    """A disk on which there is room up to some write, which is another one each time."""
    with _mounted(folder / "disk", f"{random.randrange(8, 1400)}k") as place:

        def enlarge() -> None:
            _remount(place, "size=64m")

        return disturbed(scene, place, Disturbance(after=enlarge))


@contextmanager
def _mounted(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def _remount(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=False, capture_output=True)


def may_mount(folder: Path) -> bool:
    """Whether disks may be mounted, below a folder."""
    place = folder / "mounted"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], capture_output=True, check=False)
    if done.returncode == 0:
        subprocess.run(["umount", str(place)], check=True)
    return done.returncode == 0
