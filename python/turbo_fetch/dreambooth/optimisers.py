"""Optimisers and learning rate schedules, made from the spec; packages are imported when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import torch
from diffusers.optimization import get_scheduler

from turbo_fetch.errors import MissingExtra
from turbo_fetch.spec.train import OptimiserKind, OptimiserSpec, TrainSpec

_PACKAGES: Final[Mapping[OptimiserKind, tuple[str, str]]] = {
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit"),
    "lion": ("bitsandbytes.optim", "Lion"),
    "prodigy": ("prodigyopt", "Prodigy"),
}


def make_optimiser(spec: OptimiserSpec, groups: list[dict[str, Any]], scaled: bool = False) -> Any:
    """Return the optimiser of parameter groups, which bring their learning rates.

    `scaled` says that gradients are scaled (fp16), which fused kernels do not clip. Raises MissingExtra.
    """
    if spec.kind == "adamw":
        # Fused runs on processors too, at about half the cost of the loop.
        return torch.optim.AdamW(groups, betas=spec.betas, eps=spec.epsilon, fused=not scaled)
    if spec.kind == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, scale_parameter=False, relative_step=False, warmup_init=False)
    module, name = _PACKAGES[spec.kind]
    package = module.partition(".")[0]
    try:
        kind = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise MissingExtra(package, "optimisers", f"train.optimiser.kind = {spec.kind!r}") from error
    if spec.kind == "lion":
        return kind(groups, betas=spec.betas)
    if spec.kind == "prodigy":
        return kind(
            groups, betas=spec.betas, eps=spec.epsilon, safeguard_warmup=True, use_bias_correction=True
        )
    return kind(groups, betas=spec.betas, eps=spec.epsilon)


def make_schedule(train: TrainSpec, optimiser: Any) -> Any:
    """Return the learning rate schedule, which counts optimiser steps."""
    schedule = train.schedule
    return get_scheduler(
        schedule.kind,
        optimizer=optimiser,
        num_warmup_steps=schedule.warmup_steps,
        num_training_steps=train.steps,
        num_cycles=schedule.cycles,
        power=schedule.power,
    )
