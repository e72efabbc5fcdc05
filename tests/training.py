"""What tests of training share: images, specs, and what a run left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import processes
from processes import PATIENCE_S
from turbo_fetch.dreambooth.training import launch
from turbo_fetch.dreambooth.training.history import TrainReport
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import dump_spec, parse_spec
from turbo_fetch.stop import StopRequest


def write_images(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (64, 64)) -> Path:
    """Write coarse random images as PNG; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        coarse.resize(size).save(folder / f"{number}.png")
    return folder


@dataclass
class Listener(ProgressListener):
    """Keeps the lines that a person should see."""

    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)


def training_spec(base: Path, folder: Path, prior: bool = True, **keys: Any) -> Spec:
    """Return a quick run on images in `folder` (`subject`, `class`), which writes to `folder/model`."""
    for name, seed in (("subject", 1), ("class", 2)):
        if not (folder / name).exists():
            write_images(folder / name, 4, seed)
    table = {
        "base": str(base),
        "subject": str(folder / "subject"),
        "class": "dog",
        "resolution": 64,
        "steps": 8,
        "text_encoder": False,
        "learning_rate": 1e-3,
        "sample_every": 0,
        "output": str(folder / "model"),
        "log_every": 1,
    }
    tables: dict[str, Any] = {"train": table | keys}
    if prior:
        tables["prior"] = {"source": str(folder / "class")}
    return parse_spec(tables)


def fit(spec: Spec, listener: Listener | None = None, stop: StopRequest | None = None) -> TrainReport:
    """Run the training stage in this process."""
    launch.check(spec)
    return launch.run(spec, listener or Listener(), StopRequest() if stop is None else stop)


def stopped_after(spec: Spec, step: int) -> None:
    """Run the training stage until the end of a step, where it is asked to stop; needs `log_every = 1`."""
    stop = StopRequest()

    class Stops(Listener):
        """Asks to stop when it is told of the step."""

        def step(self, done: int, total: int, unit: str, values: Mapping[str, float]) -> None:
            if done >= step:
                stop.ask()

    fit(spec, Stops(), stop)


_KILLED_AT = """
import os, signal, sys

def watch(event, given):
    if event == "os.rename" and str(given[1]).endswith(os.environ["KILLED_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
"""


@dataclass(frozen=True)
class Child:
    """`turbo-fetch run` in a process of its own; what it says on stderr is in a file."""

    process: subprocess.Popen[str]
    errors: Path

    @classmethod
    @contextmanager
    def running(cls, spec: Spec, folder: Path, killed_at: str = "") -> Iterator[Child]:
        """Start `turbo-fetch run` on the spec; it is killed at the end if it is still there.

        It kills itself when it is about to publish a file of the name `killed_at`.
        """
        path, errors = folder / "spec.toml", folder / "errors.txt"
        path.write_text(dump_spec(spec))
        (folder / "sitecustomize.py").write_text(_KILLED_AT if killed_at else "")
        paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "KILLED_AT": killed_at}
        command = [sys.executable, "-m", "turbo_fetch", "run", str(path), "--quiet"]
        with (
            errors.open("wb") as file,
            processes.started(command, stderr=file, env=environment) as process,
        ):
            yield cls(process, errors)

    def end(self) -> int:
        """Return the exit code when the run has ended: the number of a signal that killed it is negative."""
        return self.process.wait(timeout=PATIENCE_S)


def history(output: Path | str) -> list[dict[str, float]]:
    """Return the entries of a run's history."""
    return [json.loads(line) for line in (Path(output) / "history.jsonl").read_text().splitlines()]


def learned(output: Path | str) -> dict[str, torch.Tensor]:
    """Return all tensors of the newest checkpoint by their path in it, random states and optimiser included."""
    newest = sorted((Path(output) / "checkpoints").glob("step-*.ckpt"))[-1]
    found: dict[str, torch.Tensor] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, torch.Tensor):
            found[path] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}/{key}")
        elif isinstance(value, list | tuple):
            for number, inner in enumerate(value):
                walk(inner, f"{path}/{number}")

    checkpoint = torch.load(newest, weights_only=True)
    # What callbacks remember is of this run's checkpoints, not of what is learned.
    checkpoint.pop("callbacks")
    walk(checkpoint, "")
    return found


def assert_equal_bits(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> None:
    """Fail, naming it, for any tensor that is not the same in both."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


_KILLED_MIDWAY = """
import os, signal, sys
from pathlib import Path
from processes import files_below
from turbo_fetch import stages
from turbo_fetch.dreambooth.sampling import generate, prior
from turbo_fetch.dreambooth.scoring import evaluate
from turbo_fetch.spec.specfile import load_spec

for path, stage, pattern, count in zip(*[iter(sys.argv[1:])] * 4):
    child = os.fork()
    if child == 0:
        folder = Path(path).parent

        def watch(event, given):
            if event == "os.rename" and len(files_below(folder, pattern)) >= int(count):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        stages.run(load_spec(Path(path)), names=(stage,))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, f"{stage} was not killed"
"""


def kill_midway(*stages: tuple[Spec, str, Path, str, int]) -> None:
    """Run a stage of each spec in a process that is killed when as many files match a pattern below a folder.

    It kills itself when it is about to publish the next one: by the time that another process had looked, it
    might be through. All processes are forks of one that has only imported what they need, which costs that once.
    """
    arguments = []
    for spec, stage, folder, pattern, count in stages:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spec.toml").write_text(dump_spec(spec))
        arguments += [str(folder / "spec.toml"), stage, pattern, str(count)]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", _KILLED_MIDWAY, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        timeout=PATIENCE_S,
    )
