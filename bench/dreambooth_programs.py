"""Trainers that are compared: turbo-fetch, and diffusers' `train_dreambooth.py`, a separate program given by path."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import tomli_w
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench.measure import Measurement, measure
from bench.ours import our_executable

PACKAGES: Final = ("torch", "diffusers", "transformers", "accelerate", "lightning")
TIMEOUT_S: Final = 3600.0
_NEVER: Final = 1_000_000


@dataclass(frozen=True)
class Task:
    """What is trained on what: a batch of one image and one class image, the text encoder frozen."""

    model: str
    subject: Path
    class_: Path
    resolution: int
    learning_rate: float
    accelerator: str = "cpu"
    precision: str = "fp32"

    @property
    def class_images(self) -> int:
        """How many there are."""
        return sum(1 for _ in self.class_.iterdir())


@dataclass(frozen=True)
class Program:
    """A trainer: the command for a number of steps in a folder, and the losses that it left there."""

    name: str
    command: Callable[[Task, int, Path], list[str]]
    losses: Callable[[Path], list[float]]


def ours(name: str, **keys: Any) -> Program:
    """Return turbo-fetch, with keys of `[train]` that differ."""

    def command(task: Task, steps: int, folder: Path) -> list[str]:
        train = {
            "base": task.model,
            "subject": str(task.subject),
            "class": "dog",
            "resolution": task.resolution,
            "steps": steps,
            "text_encoder": False,
            "learning_rate": task.learning_rate,
            "accelerator": task.accelerator,
            "precision": task.precision,
            "checkpoint_every": _NEVER,
            "sample_every": 0,
            "output": str(folder / "model"),
        }
        path = folder / "spec.toml"
        tables = {"prior": {"source": str(task.class_)}, "train": train | keys}
        path.write_text(tomli_w.dumps(tables), encoding="utf-8")
        return [str(our_executable()), "run", str(path)]

    def losses(folder: Path) -> list[float]:
        lines = (folder / "model" / "history.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["loss"] for line in lines]

    return Program(name, command, losses)


def the_peer(name: str, script: Path, *flags: str) -> Program:
    """Return the peer with further flags."""

    def command(task: Task, steps: int, folder: Path) -> list[str]:
        options: dict[str, object] = {
            "pretrained_model_name_or_path": task.model,
            "instance_data_dir": task.subject,
            "instance_prompt": "a photo of sks dog",
            "class_data_dir": task.class_,
            "class_prompt": "a photo of a dog",
            "num_class_images": task.class_images,
            "prior_loss_weight": 1.0,
            "output_dir": folder / "model",
            "resolution": task.resolution,
            "train_batch_size": 1,
            "learning_rate": task.learning_rate,
            "lr_scheduler": "constant",
            "lr_warmup_steps": 0,
            "max_train_steps": steps,
            "checkpointing_steps": _NEVER,
            "mixed_precision": "no" if task.precision == "fp32" else task.precision,
            "seed": 0,
        }
        given = [f"--{option}={value}" for option, value in options.items()]
        return [sys.executable, str(script), "--with_prior_preservation", *given, *flags]

    def losses(folder: Path) -> list[float]:
        events = EventAccumulator(
            str(folder / "model" / ".turbo-fetch" / "logs" / "dreambooth"), {"scalars": 0}
        )
        events.Reload()
        return [event.value for event in events.Scalars("loss")]

    return Program(name, command, losses)


def compared(peer: Path) -> list[Program]:
    """Return what is compared: the peer runs as its README says, and once more with the texts computed once."""
    return [
        ours("turbo-fetch"),
        ours("turbo-fetch, compiled", compile=True),
        the_peer("peer", peer),
        the_peer("peer, text computed once", peer, "--pre_compute_text_embeddings"),
    ]


def one_run(
    program: Program, task: Task, steps: int, folder: Path, environment: dict[str, str]
) -> dict[str, Any]:
    """Run a program in a fresh folder; return what it cost and its losses. Raises RuntimeError if it fails."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "log.txt"
    cost = measure(program.command(task, steps, folder), log, TIMEOUT_S, environment)
    _check(program, cost, log)
    losses = program.losses(folder)
    if len(losses) != steps:
        raise RuntimeError(f"{program.name} logged {len(losses)} losses of {steps} steps")
    return {"program": program.name, "steps": steps, "cpu_s": cost.cpu_s, **asdict(cost), "losses": losses}


def peer_script(given: Path) -> Path:
    """Return the peer's script. Raises FileNotFoundError that says where it is from."""
    if not given.is_file():
        raise FileNotFoundError(
            f"--peer {given}: no such file; expected examples/dreambooth/train_dreambooth.py of diffusers"
        )
    return given


def _check(program: Program, cost: Measurement, log: Path) -> None:
    if cost.exit_code != 0 or cost.timed_out:
        tail = log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{program.name} ended with {cost.exit_code}:\n{tail}")
