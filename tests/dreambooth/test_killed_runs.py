"""Training killed at random points of its work, again and again: what comes out is what an undisturbed run makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import processes
from tiny_models import tiny_sd
from training import assert_equal_bits, history, learned, training_spec, write_images
from turbo_fetch.dataset.lock import held
from turbo_fetch.dataset.place import open_place
from turbo_fetch.errors import OutputHeld
from turbo_fetch.spec.specfile import dump_spec

KILLS = 20
OUTPUTS = 12
"""Runs among which the kills are dealt out; fewer are enough."""

_KILLED = """
import os, random, signal, sys
from pathlib import Path
import torch
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.training import launch
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec.specfile import load_spec
from turbo_fetch.stop import StopRequest

torch.set_num_threads(1)
# What is imported when it is first used is so once, for all forks.
families.load(sys.argv[1])
whole, *killed = sys.argv[2:]
WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}

def trained(path, last):
    # Run in a fork that kills itself at the given one of its steps and changes of files.
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        _, status = os.waitpid(child, 0)
        return status, os.read(reading, 100)
    count = 0

    def happened():
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    class Counts(ProgressListener):
        def step(self, done, total, unit, values):
            happened()

        def phase(self, done, total, unit):
            happened()

    spec = load_spec(Path(path))
    output = spec.train.output

    def watch(event, given):
        if event in WATCHED and str(given[0]).startswith((output, f"{Path(output).parent}/.")):
            happened()

    sys.addaudithook(watch)
    launch.run(spec, Counts(), StopRequest())
    os.write(writing, str(count).encode())
    os._exit(0)

status, happened = trained(whole, 0)
assert status == 0
draw, kills = random.Random(7), 0
while kills < KILLS:
    path = killed.pop(0)
    while status := trained(path, draw.randrange(1, int(happened)) if kills < KILLS else 0)[0]:
        assert os.WTERMSIG(status) == signal.SIGKILL
        kills += 1
"""


def _files(folder: Path) -> list[str]:
    """Return what is there, but for the lease, whose name counts who has worked there."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.parent.name != "lease"}
    return sorted(found)


@pytest.mark.timeout(600)
def test_runs_killed_at_seeded_points_make_what_an_undisturbed_one_makes(tmp_path: Path) -> None:
    base, held_out = tiny_sd(tmp_path / "base"), write_images(tmp_path / "held out", 1, seed=5)
    keys: dict[str, Any] = {
        "steps": 6,
        "checkpoint_every": 2,
        "checkpoints_kept": 2,
        "sample_every": 3,
        "samples": {"images": 1, "steps": 1},
        "validation": {"pictures": str(held_out), "every": 3, "draws": 1},
        "ema": {"decay": 0.9},
        "pictures": {"flip": True},
        "learning_rate": 1e-2,
    }
    outputs = [tmp_path / str(number) / "model" for number in range(1 + OUTPUTS)]
    specs = []
    for output in outputs:
        output.parent.mkdir()
        specs.append(output.parent / "spec.toml")
        specs[-1].write_text(dump_spec(training_spec(base, tmp_path, output=str(output), **keys)))
    script = _KILLED.replace("KILLS", str(KILLS))
    subprocess.run([sys.executable, "-c", script, str(base), *map(str, specs)], check=True)
    whole, *killed = (output for output in outputs if output.exists())
    assert killed
    for output in killed:
        assert history(output) == history(whole)
        assert_equal_bits(learned(output), learned(whole))
        assert _files(output.parent) == _files(whole.parent)
        for path in (*whole.rglob("*.png"), *whole.rglob("*.safetensors")):
            assert (output / path.relative_to(whole)).read_bytes() == path.read_bytes(), path


_HOLDER = """
import multiprocessing, sys, time
from turbo_fetch.dataset.lock import held
from turbo_fetch.dataset.place import open_place

with held(open_place(sys.argv[1])):
    child = multiprocessing.get_context("fork").Process(target=sys.stdin.read)
    child.start()
    print(child.pid, flush=True)
    child.join()
"""


def test_a_lock_goes_with_the_process_that_took_it_and_not_with_its_children(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with processes.started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        place = open_place(str(tmp_path))
        with pytest.raises(OutputHeld, match="another run"), held(place):
            pass
        process.kill()
        process.wait()
        assert Path(f"/proc/{child}").exists()
        with held(place):
            pass
