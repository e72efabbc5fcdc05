"""Machines that fail: little memory, few files, processes that stand still, disks that turn read-only, folders that go.

A run ends well or with a sentence, never with a traceback, and the same command goes on to the bytes of a quiet run.
"""

from __future__ import annotations

import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import psutil
from PIL import Image

import turbo_fetch
from album import album
from attack.campaign import Attack
from jobs import content_hashes, job_spec, ledger, wait_for_hits, write_list
from origin import Origin
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec

SMALL = album(160, side=40)


@dataclass(frozen=True, slots=True)
class Scene:
    """A list, its server, and what a quiet run makes of it."""

    origin: Origin
    listed: Path
    quiet: dict[str, str]

    def spec(self, folder: Path) -> Spec:
        """Return the spec of a run into `folder`."""
        return job_spec(
            self.listed,
            folder / "out",
            http={"concurrency": 4, "retries": 0, "timeout_s": 20},
            output={"samples_per_shard": 40},
            engine={"workers": 2, "threads": 1},
        )


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks, whose server lives as long as the stack; those that take a tool or a right only with it."""
    origin = stack.enter_context(Origin(SMALL, latency_s=0.02))
    place = folder / "machine"
    place.mkdir()
    scene = Scene(origin, write_list(place / "list.parquet", [origin.url(name) for name in SMALL]), {})
    turbo_fetch.run(scene.spec(place))
    scene.quiet.update(content_hashes(place / "out"))
    found = [
        Attack("few file descriptors", partial(_few_files, scene)),
        Attack("processes that stand still", partial(_stopped, scene)),
        Attack("files that are deleted in mid-run", partial(_deleted, scene)),
        Attack("little memory", _little_memory),
    ]
    if _may_mount(folder):
        found.append(Attack("a disk that turns read-only in mid-run", partial(_read_only, scene)))
    if shutil.which("strace"):
        found.append(Attack("power loss: what is renamed was on disk", partial(_unsynced, scene)))
    return found


def _few_files(scene: Scene, random: Random, folder: Path) -> str | None:
    most = random.randrange(20, 120)
    return _disturbed(scene, folder, before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)))


def _stopped(scene: Scene, random: Random, folder: Path) -> str | None:
    """Hold every process of a run still for a while, one after the other, or all at once."""

    def hold(running: subprocess.Popen[str]) -> None:
        wait_for_hits(running, scene.origin, random.randrange(1, 80))
        with _gone_processes():
            tree = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
            for group in random.choice(([[each] for each in tree], [tree])):
                for each in group:
                    each.suspend()
                time.sleep(random.uniform(0.2, 3))
                for each in group:
                    each.resume()

    return _disturbed(scene, folder, meanwhile=hold, ends_well=True)


def _deleted(scene: Scene, random: Random, folder: Path) -> str | None:
    what = random.choice(
        ("*.spool", "documents.sqlite*", "manifest", "job", "lock", "*.part", "ledger/*", "")
    )

    def delete(running: subprocess.Popen[str]) -> None:
        wait_for_hits(running, scene.origin, random.randrange(1, 150))
        place = folder / "out/.turbo-fetch"
        for path in place.glob(what) if what else [place]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    # A dataset without its job is none that can be gone on with.
    failure = _disturbed(scene, folder, meanwhile=delete, goes_on=what not in {"", "job"})
    return None if failure is None else f"deleted {what or 'the work folder'}: {failure}"


def _little_memory(random: Random, folder: Path) -> str | None:
    """Images for which there is no memory say so; those beside them are what they are with memory."""
    kinds = [
        ("PNG", "RGB", {}),
        ("JPEG", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ]
    kind, mode, options = random.choice(kinds)
    file = io.BytesIO()
    Image.new(mode, (9000, random.randrange(8000, 11_000))).save(file, kind, **options)
    images = {**dict(list(SMALL.items())[:20]), "huge": file.getvalue()}
    limit = random.randrange(700, 1000) << 20
    with Origin(images) as origin:
        rows = [origin.url(name) for name in images]
        random.shuffle(rows)
        spec = job_spec(
            write_list(folder / "list.parquet", rows),
            folder / "out",
            http={"retries": 0, "concurrency": 4},
            image={"mode": "no", "encode": "png", "quality": 0},
            engine={"workers": 1, "threads": 1},
        )
        code, text = _run(spec, folder, lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    if code:
        return None if "memory" in text and "Traceback" not in text else f"ended with {code}: {text[-500:]}"
    outcomes = {row["url"].rpartition("/")[2]: row["outcome"] for row in ledger(folder / "out")}
    huge = outcomes.pop("huge")
    if set(outcomes.values()) != {"success"} or huge not in {"success", "out-of-memory"}:
        return f"{kind}: {huge}, and beside it {set(outcomes.values())}"
    return None


def _read_only(scene: Scene, random: Random, folder: Path) -> str | None:
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)], check=True)
    remount = partial(subprocess.run, check=False, capture_output=True)

    def turn(running: subprocess.Popen[str]) -> None:
        wait_for_hits(running, scene.origin, random.randrange(1, 150))
        # What is open for writing would keep the disk from turning; an error of the device would not ask either.
        remount(["mount", "-o", "remount,ro", "-f", str(place)])
        remount(["mount", "-o", "remount,ro", str(place)])
        running.wait(timeout=60) if running.poll() is None and not os.access(place, os.W_OK) else None
        remount(["mount", "-o", "remount,rw", str(place)])

    try:
        return _disturbed(scene, place, meanwhile=turn)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (\d+|\?)")
PATH = re.compile(r'<([^>]*)>|"([^"]*)"')


def _unsynced(scene: Scene, random: Random, folder: Path) -> str | None:
    """Read the calls of a run: whatever is published by a rename has been synced since it was written last."""
    (folder / "job.toml").write_text(dump_spec(scene.spec(folder)))
    log = folder / "calls"
    calls = "trace=write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,copy_file_range,sendfile"
    command = [sys.executable, "-m", "turbo_fetch", "run", str(folder / "job.toml")]
    done = subprocess.run(
        ["strace", "-f", "-y", "-qq", "-s", "0", "-e", calls, "-o", str(log), *command],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if done.returncode:
        return f"ended with {done.returncode}: {done.stderr[-500:]}"
    return first_unsynced(log.read_text(errors="replace").splitlines(), str(folder / "out"))


def first_unsynced(lines: list[str], output: str) -> str | None:
    """Return the first file under `output` that is renamed with writes that no sync has followed; None if none is."""
    dirty: set[str] = set()
    renamed = 0
    for line in lines:
        found = CALL.match(line.replace("<unfinished ...>", ") = 0"))
        if found is None:
            continue
        call, arguments = found[1], found[2]
        paths = [first or second for first, second in PATH.findall(arguments)]
        paths = [path for path in paths if path.startswith(output)]
        if call.startswith("rename") and len(paths) >= 2:
            source, target = paths[-2], paths[-1]
            renamed += 1
            if source in dirty:
                return f"{source} was renamed to {target} before it was synced"
        elif "sync" in call:
            dirty -= set(paths)
        elif paths:
            dirty.update(paths)
    return None if renamed else "no rename was seen"


def _disturbed(
    scene: Scene,
    folder: Path,
    before: Callable[[], None] | None = None,
    meanwhile: Callable[[subprocess.Popen[str]], None] | None = None,
    ends_well: bool = False,
    goes_on: bool = True,
) -> str | None:
    """Run in adversity, then in peace; return what is not as it should be."""
    spec = scene.spec(folder)
    code, text = _run(spec, folder, before, meanwhile)
    if code not in {0, 1, 2} or "Traceback" in text or "a bug in" in text:
        return f"ended with {code}: {text[-1500:]}"
    if ends_well and code:
        return f"ended with {code}: {text[-500:]}"
    if not goes_on:
        return None
    code, text = _run(spec, folder)
    if code:
        return f"the next run ended with {code}: {text[-500:]}"
    if any(row["outcome"] != "success" for row in ledger(folder / "out")):
        # Rows may have failed by what was missing here; that has to be said, and a retry has to get them.
        faults = {
            f"{row['outcome']}: {row['detail']}"
            for row in ledger(folder / "out")
            if row["outcome"] != "success"
        }
        retried = _command(["retry", str(folder / "out")])
        if retried.returncode or content_hashes(folder / "out") != scene.quiet:
            return f"a retry does not mend {faults}: {retried.stderr[-500:]}"
    return None if content_hashes(folder / "out") == scene.quiet else "other bytes than those of a quiet run"


def _command(
    arguments: list[str], before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "turbo_fetch", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        preexec_fn=before,
    )


def _run(
    spec: Spec,
    folder: Path,
    before: Callable[[], None] | None = None,
    meanwhile: Callable[[subprocess.Popen[str]], None] | None = None,
) -> tuple[int, str]:
    """Run a spec; return its exit code and what it said."""
    path = folder.parent / f"{folder.name}.toml"
    path.write_text(dump_spec(spec))
    command = [sys.executable, "-m", "turbo_fetch", "run", str(path)]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=before,
        start_new_session=True,
    )
    try:
        if meanwhile is not None:
            meanwhile(running)
        out, _ = running.communicate(timeout=200)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
    return running.returncode, out


@contextmanager
def _gone_processes() -> Iterator[None]:
    """Put up with processes that end while they are looked at."""
    try:
        yield
    except psutil.NoSuchProcess:
        return


def _may_mount(folder: Path) -> bool:
    place = folder / "mounted"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], capture_output=True, check=False)
    if done.returncode == 0:
        subprocess.run(["umount", str(place)], check=True)
    return done.returncode == 0
