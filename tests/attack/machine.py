"""Machines that fail: little memory, few files, clocks that are set.

A run ends well or with a sentence, never with a traceback, and the same command goes on to the bytes of a quiet run.
"""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
import struct
import subprocess
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random

from PIL import Image

from attack.campaign import Attack
from attack.scene import SMALL, Disturbance, Scene, disturbed, run
from jobs import job_spec, ledger, wait_for_hits, write_list
from origin import Origin
from turbo_fetch.spec.specfile import dump_spec

NO_THREADS = '''
"""Refuses threads to some processes, after a number of them, as the file THREADS says."""
import os, sys, threading
from pathlib import Path

limit = Path(os.environ["THREADS"])
if limit.exists():
    who, left = limit.read_text().split()
    left = iter(range(int(left)))
    start = threading._start_new_thread

    def start_if_any(*arguments, **options):
        if any(word.endswith(who) for word in sys.orig_argv) and next(left, None) is None:
            raise RuntimeError("can't start new thread")
        return start(*arguments, **options)

    threading._start_new_thread = start_if_any
'''
MOST_WAITED_S = 60.0
"""That a run goes on within, whatever a clock says."""


def attacks(stack: ExitStack, folder: Path) -> list[Attack]:
    """Return the attacks, whose server lives as long as the stack; those that take a tool only with it."""
    scene = Scene.prepared(stack, folder / "machine")
    found = [
        Attack("few file descriptors", partial(_few_files, scene)),
        Attack("few threads", partial(_few_threads, scene)),
        Attack("little memory", _little_memory),
    ]
    if shutil.which("cc"):
        library = folder / "machine/clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
        found.append(Attack("clocks that are set by hours", partial(_clock, scene, library)))
    return found


def _few_files(scene: Scene, random: Random, folder: Path) -> str | None:
    most = random.randrange(20, 120)
    limit = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (most, most))
    return disturbed(scene, folder / "run", Disturbance(before=limit))


def _few_threads(scene: Scene, random: Random, folder: Path) -> str | None:
    """Refuse threads to the processes of a run as the system does where there are too many, from some thread on."""
    hook, limit = folder / "hook", folder / "limit"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(NO_THREADS)
    limit.write_text(f"{random.choice(('runners', 'monitor', 'run'))} {random.randrange(8)}")
    paths = f"{hook}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    by = Disturbance(environment={"PYTHONPATH": paths, "THREADS": str(limit)}, after=limit.unlink)
    return disturbed(scene, folder / "run", by)


def _clock(scene: Scene, library: Path, random: Random, folder: Path) -> str | None:
    """Set the clock by hours, either way, during a run and between the runs of which the first may be killed."""
    clock = folder / "clock"
    clock.write_bytes(bytes(struct.calcsize("l")))
    environment = {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(clock)}
    is_killed = random.random() < 0.5
    began_s = time.monotonic()

    def set_clock() -> None:
        with clock.open("r+b") as file:
            file.write(struct.pack("l", random.choice((-3600, 3600)) * random.randint(1, 48)))

    def meddle(running: subprocess.Popen[str]) -> None:
        for _ in range(random.randint(1, 3)):
            wait_for_hits(running, scene.origin, random.randrange(1, 50))
            set_clock()
        if is_killed:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)

    by = Disturbance(
        meanwhile=meddle,
        environment=environment,
        after=set_clock,
        ends_well=not is_killed,
        may_be_killed=True,
    )
    failure = disturbed(scene, folder / "run", by)
    took_s = time.monotonic() - began_s
    return failure or (f"took {took_s:.0f} s" if took_s > MOST_WAITED_S else None)


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
        (folder / "job.toml").write_text(dump_spec(spec))
        limited = partial(resource.setrlimit, resource.RLIMIT_AS, (limit, limit))
        code, text = run(folder / "job.toml", Disturbance(before=limited))
    if code:
        return None if "memory" in text and "Traceback" not in text else f"ended with {code}: {text[-500:]}"
    outcomes = {row["url"].rpartition("/")[2]: row["outcome"] for row in ledger(folder / "out")}
    huge = outcomes.pop("huge")
    if set(outcomes.values()) != {"success"} or huge not in {"success", "out-of-memory"}:
        return f"{kind}: {huge}, and beside it {set(outcomes.values())}"
    return None
