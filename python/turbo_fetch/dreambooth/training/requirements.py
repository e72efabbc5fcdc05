"""What a run would use of this machine, whether it fits, and what to change if it does not, without running it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch

from turbo_fetch.doctor.accelerator import BF16_CAPABILITY, xformers_fault
from turbo_fetch.doctor.advice import Finding
from turbo_fetch.dreambooth.data.sources import class_images_place
from turbo_fetch.dreambooth.families import family_of, skeleton
from turbo_fetch.dreambooth.families.block_swap import repeated_blocks
from turbo_fetch.dreambooth.run_folder import checkpoints
from turbo_fetch.dreambooth.training.estimate import Estimate, Estimator, estimate
from turbo_fetch.dreambooth.training.machine import device_of, precision_of, uses_tf32
from turbo_fetch.dreambooth.training.memory_advice import can_fuse, fused_words, smaller_batch
from turbo_fetch.errors import SpecError
from turbo_fetch.progress.summary import human_bytes
from turbo_fetch.spec import Spec, TrainSpec

MARGIN: Final = 1.1
"""An estimate is up to a tenth below what was measured on GPUs."""


def training_findings(spec: Spec) -> Iterator[Finding]:
    """Yield what there is to say of `[train]` on this machine. Raises SpecError, ModelError as the run would."""
    train = spec.train
    if train is None:
        raise SpecError("the spec has no table [train]; expected one for --train")
    device = device_of(train, 0)
    precision = precision_of(train, device)
    yield _device(device)
    yield _precision(train, device, precision)
    yield _attention(train, device)
    yield _memory(train, device, precision, class_images_place(spec) is not None)
    rate = measured_rate(Path(train.output), train.checkpoint_every)
    if rate is not None:
        yield Finding("speed", "good", f"{rate:.2f} steps a second, as the last run here took")


def _device(device: torch.device) -> Finding:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return Finding("device", "good", f"{name}: {human_bytes(free)} free of {human_bytes(total)}")
    if device.type == "mps":
        return Finding("device", "good", "the GPU of Apple silicon")
    return Finding("device", "warning", "the processor", "a step takes seconds; use a machine with a GPU")


def _precision(train: TrainSpec, device: torch.device, precision: str) -> Finding:
    if device.type != "cuda":
        return Finding("precision", "good", precision)
    capability = torch.cuda.get_device_capability(device)
    rest = ", fp32 computed as TF32" if uses_tf32(train, device, precision) else ""
    found = f"{precision}{rest}, on compute capability {capability[0]}.{capability[1]}"
    if precision == "bf16" and capability < BF16_CAPABILITY:
        return Finding(
            "precision",
            "warning",
            f"{found}, which has no bf16 and emulates it",
            'set train.precision = "fp16"',
        )
    return Finding("precision", "good", found)


def _attention(train: TrainSpec, device: torch.device) -> Finding:
    if train.attention == "sdpa":
        return Finding("attention", "good", "PyTorch's scaled dot product attention, as asked")
    fault = xformers_fault(device)
    if fault is None:
        return Finding("attention", "good", "xformers")
    if train.attention == "xformers":
        return Finding("attention", "bad", f"not xformers, for {fault}", 'set train.attention = "auto"')
    return Finding("attention", "good", f"PyTorch's scaled dot product attention; not xformers, for {fault}")


def _memory(train: TrainSpec, device: torch.device, precision: str, with_prior: bool) -> Finding:
    on_gpu = precision_on_gpu(train, device, precision)
    needed = estimate(train, on_gpu, with_prior)
    found = f"about {human_bytes(needed.peak_bytes)} of a GPU in {on_gpu} (estimated: {_parts(needed)})"
    if device.type != "cuda":
        return Finding("memory", "good", found)
    free = torch.cuda.mem_get_info(device)[0]
    if fits(needed, free):
        return Finding("memory", "good", f"{found}, of which {human_bytes(free)} are free")
    advice = what_fits(train, on_gpu, with_prior, free)
    return Finding("memory", "bad", f"{found}, of which only {human_bytes(free)} are free", advice)


def precision_on_gpu(train: TrainSpec, device: torch.device, precision: str) -> str:
    """Return the precision of an estimate: on a machine without a GPU, that of a usual one."""
    return "bf16" if device.type == "cpu" and train.precision == "auto" else precision


def fits(needed: Estimate, free_bytes: int) -> bool:
    """Return whether a run fits, though it may take a little more than is estimated."""
    return needed.peak_bytes * MARGIN <= free_bytes


def what_fits(train: TrainSpec, precision: str, with_prior: bool, free_bytes: int) -> str:
    """Return the changes, from the least on, with which a run fits, or that none of them is enough."""
    words: list[str] = []
    needed = None
    estimator = Estimator(precision, with_prior)
    blocks = len(repeated_blocks(skeleton(train.base).denoiser))
    for text, keys in _changes(family_of(train.base).with_defaults(train), precision, blocks):
        changed = train.changed(**keys)
        if changed is None:
            continue
        key = text.partition(" ")[0]
        words = [*(word for word in words if word.partition(" ")[0] != key), text]
        train = changed
        needed = estimator.estimate(train)
        if fits(needed, free_bytes):
            return f"in [train] set {', '.join(words)}: about {human_bytes(needed.peak_bytes)}"
    if needed is None:
        return "a GPU with more memory"
    least = human_bytes(needed.peak_bytes)
    return f"even {', '.join(words)} takes about {least}: expected a GPU with more memory"


def _changes(train: TrainSpec, precision: str, blocks: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what to change, with the keys, some of which may not go with others of the spec.

    `blocks` is of how many the denoiser is made.
    """
    if train.batch_size > 1:
        yield smaller_batch(train)
    if not train.gradient_checkpointing:
        yield "gradient_checkpointing = true", {"gradient_checkpointing": True}
    if train.optimiser.kind == "adamw" and train.trains("full"):
        table = train.optimiser.model_dump(exclude_unset=True)
        yield 'optimiser.kind = "adamw8bit"', {"optimiser": table | {"kind": "adamw8bit"}}
    if can_fuse(train) and precision != "fp16":
        table = train.optimiser.model_dump(exclude_unset=True)
        kind = "adamw8bit" if train.optimiser.kind == "adamw" else train.optimiser.kind
        yield fused_words(train), {"optimiser": table | {"kind": kind, "fused_backward": True, "clip": 0}}
    if train.trains_text_encoder:
        yield "text_encoder = false", {"text_encoder": False, "text_encoder_learning_rate": None}
    if train.trains("full"):
        yield 'method = "lora"', {"method": train.method.replace("full", "lora")}
    for count in (blocks // 2, blocks):
        if count > train.blocks_to_swap:
            yield f"blocks_to_swap = {count}", {"blocks_to_swap": count}
    for smaller in _SMALLER[train.base_precision]:
        yield f'base_precision = "{smaller}"', {"base_precision": smaller}


_SMALLER: Final[Mapping[str, tuple[str, ...]]] = {
    "auto": ("int8", "nf4"),
    "int8": ("nf4",),
    "fp8": ("nf4",),
    "nf4": (),
}


def measured_rate(output: Path, checkpoint_every: int) -> float | None:
    """Return steps a second between the last two checkpoints of a run, if it kept two of one sitting."""
    kept = [(step, path.stat().st_mtime) for step, path in checkpoints(output).items()]
    rates = [
        (after - before) / (later_s - earlier_s)
        for (before, earlier_s), (after, later_s) in pairwise(kept)
        if later_s > earlier_s and after - before == checkpoint_every
    ]
    return rates[-1] if rates else None


def _parts(needed: Estimate) -> str:
    return ", ".join(f"{name} {human_bytes(peak)}" for name, peak in needed.peaks.items())
