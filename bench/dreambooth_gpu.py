"""What the trainer does on a GPU, in ten minutes, with models and images of random content that it makes itself.

    python -m bench.dreambooth_gpu [--peer train_dreambooth.py] [--output dreambooth-gpu.json]

Parts, each of which is reported even if others fail:
- `correctness`: two steps of a small model of each family on the GPU against the same on the processor, in fp32, and
  what sampling makes in each precision; swapped blocks against the same without, to the bit, and bases of fewer bits
  against one in bf16;
- `memory`: the most that a run takes against what `turbo-fetch doctor --train` estimates;
- `speed`: seconds a step of Stable Diffusion 1.5's shape by precision, attention, compilation, swapped blocks and bits
  of the base, and the peer's.
No network is used. Needs a GPU that nothing else uses; `--small` runs all of it on small models, to try the script.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from safetensors.torch import load_file

from bench.dreambooth_model import write_images
from bench.dreambooth_programs import PACKAGES, Task, one_run, the_peer
from bench.gpu_models import SMALL, write_sd15
from bench.machine import describe_machine, now, our_versions
from turbo_fetch.doctor.accelerator import probe
from turbo_fetch.dreambooth.families import skeleton
from turbo_fetch.dreambooth.families.block_swap import repeated_blocks
from turbo_fetch.dreambooth.training import launch
from turbo_fetch.dreambooth.training.estimate import CONTEXT_BYTES, estimate
from turbo_fetch.dreambooth.training.machine import device_of, precision_of
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec
from turbo_fetch.spec.specfile import parse_spec
from turbo_fetch.stop import StopRequest

LOSS_TOLERANCE: Final = 1e-3
"""Relative: GPUs add in another order, and TF32 is off."""
QUANTISED: Final = ("int8", "fp8", "nf4")
_SWAPPED: Final = "blocks_to_swap"
"""In a variant, which share of the model's blocks."""
_CHECKPOINTED: Final[Mapping[str, Any]] = {
    "precision": "bf16",
    "method": "lora",
    "gradient_checkpointing": True,
}
VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "full, fp32": {"precision": "fp32"},
    "full, fp32, TF32": {"precision": "fp32", "tf32": True},
    "full, fp16": {"precision": "fp16"},
    "full, bf16": {"precision": "bf16"},
    "full, bf16, 8-bit AdamW, checkpointed": {
        "precision": "bf16",
        "optimiser": {"kind": "adamw8bit"},
        "gradient_checkpointing": True,
    },
    "full, bf16, PyTorch's attention": {"precision": "bf16", "attention": "sdpa"},
    "full, bf16, xformers": {"precision": "bf16", "attention": "xformers"},
    "full, bf16, compiled": {"precision": "bf16", "compile": True},
    "full, bf16, blocks compiled": {"precision": "bf16", "compile": "blocks"},
    "full, bf16, cuDNN's benchmark": {"precision": "bf16", "cudnn_benchmark": True},
    "full, bf16, no cache": {"precision": "bf16", "cache": False},
    "lora, bf16": {"precision": "bf16", "method": "lora"},
    "lora, bf16, compiled": {"precision": "bf16", "method": "lora", "compile": True},
    "lora, bf16, blocks compiled": {"precision": "bf16", "method": "lora", "compile": "blocks"},
    "lora, bf16, checkpointed": _CHECKPOINTED,
    "lora, bf16, checkpointed, half of the blocks swapped": _CHECKPOINTED | {_SWAPPED: 0.5},
    "lora, bf16, checkpointed, all blocks swapped": _CHECKPOINTED | {_SWAPPED: 1.0},
    "lora, bf16, base in int8": {"precision": "bf16", "method": "lora", "base_precision": "int8"},
    "lora, bf16, base in fp8": {"precision": "bf16", "method": "lora", "base_precision": "fp8"},
    "lora, bf16, base in nf4": {"precision": "bf16", "method": "lora", "base_precision": "nf4"},
    "lora, bf16, base in int8, all blocks swapped": _CHECKPOINTED | {"base_precision": "int8", _SWAPPED: 1.0},
}


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    small: bool = False
    """On small models, to try the script."""
    minutes: float = 8.0
    """After which no more is begun."""
    peer: Path | None = None
    families: tuple[str, ...] = tuple(SMALL)
    methods: tuple[str, ...] = ("full", "lora")
    precisions: tuple[str, ...] = ("fp16", "bf16")
    quantised: tuple[str, ...] = QUANTISED
    variants: tuple[str, ...] = tuple(VARIANTS)


@dataclass(frozen=True)
class Bench:
    """Where models and images are, and how much is done."""

    folder: Path
    base: Path
    resolution: int
    warm_up: int
    steps: int
    deadline_s: float

    def spec(self, name: str, base: Path, resolution: int, keys: Mapping[str, Any]) -> Spec:
        """Return a run that writes to a new folder of that name."""
        output = self.folder / name
        shutil.rmtree(output, ignore_errors=True)
        train = {
            "base": str(base),
            "subject": str(self.folder / "subject"),
            "class": "dog",
            "resolution": resolution,
            "text_encoder": False,
            "learning_rate": 1e-5,
            "sample_every": 0,
            "checkpoint_every": 1_000_000,
            "log_every": self.warm_up,
            "pictures": {"workers": 0},
            "output": str(output),
        }
        return parse_spec({"prior": {"source": str(self.folder / "class")}, "train": train | dict(keys)})


class Enough(Exception):
    """Ends a run that is measured, before it writes its model."""


class StepTimes(ProgressListener):
    """Ends a run at a step, and tells what a step took since the first that it was told of after the warm-up."""

    def __init__(self, warm_up: int, last: int) -> None:
        self._warm_up = warm_up
        self._last = last
        self._told: list[tuple[int, float]] = []

    def step(self, done: int, total: int, unit: str, values: Mapping[str, float]) -> None:
        """See ProgressListener; the losses were read, so the device has done all of it."""
        if done >= self._warm_up:
            self._told.append((done, time.monotonic()))
        if done >= self._last:
            raise Enough

    @property
    def s_per_step(self) -> float:
        """Seconds."""
        (first, started_s), (last, ended_s) = self._told[0], self._told[-1]
        return (ended_s - started_s) / (last - first)


def main() -> None:
    given = _arguments()
    plan = Plan(given.small, given.minutes, given.peer)
    with tempfile.TemporaryDirectory() as scratch:
        result = measured(Path(scratch), plan)
    given.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def measured(folder: Path, plan: Plan) -> dict[str, Any]:
    """Return all figures; what fails is among them, with its traceback."""
    started_s = time.monotonic()
    write_images(folder / "subject", 4, seed=1)
    write_images(folder / "class", 8, seed=2)
    base = SMALL["sd"](folder / "base") if plan.small else write_sd15(folder / "base")
    sizes = (32, 1, 2) if plan.small else (512, 10, 60)
    bench = Bench(folder, base, *sizes, started_s + plan.minutes * 60)
    return {
        "date": now(),
        "command": f"python -m bench.dreambooth_gpu {' '.join(sys.argv[1:])}",
        "gpu": torch.cuda.get_device_name(),
        "accelerator": str(probe()),
        "machine": describe_machine(),
        "versions": our_versions() | {name: metadata.version(name) for name in PACKAGES},
        "correctness": dict(_correctness(bench, plan)),
        "speed and memory": dict(_speed(bench, plan.variants)),
        "peer": _attempt(lambda: _peer(bench, plan.peer)) if plan.peer is not None else None,
    }


def _correctness(bench: Bench, plan: Plan) -> Iterator[tuple[str, Any]]:
    for family in plan.families:
        base = SMALL[family](bench.folder / f"small-{family}")
        for method in plan.methods:
            yield f"{family} {method}", _attempt(lambda: _same_as_the_processor(bench, base, method))  # noqa: B023
        for precision in plan.precisions:
            yield f"{family} {precision}", _attempt(lambda: _samples(bench, base, precision))  # noqa: B023
        yield f"{family}, blocks swapped", _attempt(lambda: _same_with_swapped_blocks(bench, base))  # noqa: B023
        for kind in plan.quantised:
            yield f"{family}, base in {kind}", _attempt(lambda: _near_in_fewer_bits(bench, base, kind))  # noqa: B023


def _same_as_the_processor(bench: Bench, base: Path, method: str) -> dict[str, Any]:
    """Train two steps on both, from the same noise, and compare losses and weights."""
    keys = {"steps": 2, "precision": "fp32", "method": method}
    found = {}
    for accelerator in ("cpu", "gpu"):
        spec = bench.spec(accelerator, base, 32, {**keys, "accelerator": accelerator})
        _run(spec)
        found[accelerator] = _losses(spec), _weights(bench.folder / accelerator)
    (expected, weights), (losses, learned) = found["cpu"], found["gpu"]
    off = max(abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True))
    difference = max(float((weights[name] - learned[name]).abs().max()) for name in weights)
    return {
        "losses": losses,
        "on the processor": expected,
        "largest difference of a weight": difference,
        "equal": off < LOSS_TOLERANCE,
    }


def _same_with_swapped_blocks(bench: Bench, base: Path) -> dict[str, Any]:
    """Train two steps with blocks on the GPU and with three of them swapped, and compare to the bit."""
    keys = {**_CHECKPOINTED, "steps": 2}
    found = {}
    for count in (0, 3):
        spec = bench.spec(f"swapped-{count}", base, 32, {**keys, "blocks_to_swap": count})
        _run(spec)
        found[count] = _losses(spec), _weights(bench.folder / f"swapped-{count}")
    (losses, weights), (others, moved) = found.values()
    same = all(torch.equal(weight, moved[name]) for name, weight in weights.items())
    return {"losses": others, "equal to the bit": same and losses == others and len(weights) > 0}


def _near_in_fewer_bits(bench: Bench, base: Path, kind: str) -> dict[str, Any]:
    """Train two steps beside a base of fewer bits, and compare the losses with those beside one in bf16."""
    found = {}
    for held in ("auto", kind):
        keys = {"precision": "bf16", "method": "lora", "steps": 2, "base_precision": held}
        spec = bench.spec(f"held-{held}", base, 32, keys)
        _run(spec)
        found[held] = _losses(spec)
    off = max(abs(a - b) / abs(b) for a, b in zip(found[kind], found["auto"], strict=True))
    return {"losses": found[kind], "in bf16": found["auto"], "relative difference": off}


def _samples(bench: Bench, base: Path, precision: str) -> dict[str, Any]:
    """Train and sample without a cache; a black sample is what a VAE makes that overflows."""
    keys = {"steps": 2, "precision": precision, "cache": False, "sample_every": 1}
    spec = bench.spec("samples", base, 32, {**keys, "samples": {"images": 1, "steps": 2}})
    _run(spec)
    sheets = [Image.open(path) for path in sorted((bench.folder / "samples" / "samples").glob("*.png"))]
    return {"losses": _losses(spec), "not black": all(sheet.getbbox() is not None for sheet in sheets)}


def _speed(bench: Bench, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name in names:
        keys = VARIANTS[name]
        if time.monotonic() > bench.deadline_s:
            yield name, {"left out": "no time was left"}
            continue
        yield name, _attempt(lambda: _one_variant(bench, keys))  # noqa: B023


def _one_variant(bench: Bench, keys: Mapping[str, Any]) -> dict[str, Any]:
    torch.cuda.reset_peak_memory_stats()
    keys = {**keys, "steps": 1_000_000}
    if _SWAPPED in keys:
        blocks = len(repeated_blocks(skeleton(str(bench.base)).denoiser))
        keys[_SWAPPED] = max(3, round(keys[_SWAPPED] * blocks))
    spec = bench.spec("speed", bench.base, bench.resolution, keys)
    assert spec.train is not None
    times = StepTimes(bench.warm_up, bench.warm_up + bench.steps)
    started_s = time.monotonic()
    with suppress(Enough):
        _run(spec, times)
    precision = precision_of(spec.train, device_of(spec.train, 0))
    expected = estimate(spec.train, precision, with_prior=True).peaks
    # What CUDA itself takes is not PyTorch's to count.
    most = max(expected.values()) - CONTEXT_BYTES
    return {
        "s_per_step": times.s_per_step,
        "whole_s": time.monotonic() - started_s,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "estimated_gb": most / 1e9,
        "losses": _losses(spec)[-3:],
    }


def _peer(bench: Bench, script: Path) -> dict[str, Any]:
    """Measure the peer as its README says, in the precision that is fastest here."""
    precision = "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    folder = bench.folder
    task = Task(
        str(bench.base), folder / "subject", folder / "class", bench.resolution, 1e-5, "gpu", precision
    )
    program = the_peer("peer", script)
    runs = [one_run(program, task, steps, folder / "peer", {}) for steps in (bench.warm_up, bench.steps)]
    walls = [run["wall_s"] for run in runs]
    return {
        "precision": precision,
        "s_per_step": (walls[1] - walls[0]) / (bench.steps - bench.warm_up),
        "last_loss": runs[-1]["losses"][-1],
    }


def _attempt(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return run()
    except Exception as error:
        return {
            "failed": "".join(traceback.format_exception_only(error)).strip(),
            "where": traceback.format_exc(),
        }


def _run(spec: Spec, listener: ProgressListener | None = None) -> None:
    launch.run(spec, listener or ProgressListener(), StopRequest())


def _losses(spec: Spec) -> list[float]:
    assert spec.train is not None
    lines = (Path(spec.train.output) / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines]


def _weights(output: Path) -> dict[str, torch.Tensor]:
    files = [*output.glob("pytorch_lora_weights.safetensors"), *output.glob("*net/*.safetensors")]
    files += output.glob("transformer/*.safetensors")
    return {name: weight for file in files for name, weight in load_file(file).items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="examples/dreambooth/train_dreambooth.py of diffusers")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no more is begun")
    parser.add_argument("--small", action="store_true", help="small models instead of that of 1.5's shape")
    parser.add_argument("--output", type=Path, default=Path("dreambooth-gpu.json"))
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error(f"this needs an NVIDIA GPU with CUDA; torch {torch.__version__} sees none here")
    if given.peer is not None and not given.peer.is_file():
        parser.error(
            f"--peer {given.peer}: no such file; expected examples/dreambooth/train_dreambooth.py of diffusers"
        )
    return given


if __name__ == "__main__":
    main()
