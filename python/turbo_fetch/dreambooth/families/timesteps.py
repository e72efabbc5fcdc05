"""Which noise levels are learned from how often, and how far they are shifted: `[train.timesteps]`."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import Tensor

from turbo_fetch.dreambooth.families.family import Family
from turbo_fetch.dreambooth.families.noise import Flow, NoiseProcess
from turbo_fetch.spec.train_tables import TimestepsSpec

AS_THE_MODEL: Final = "auto"


def process_at(family: Family, process: NoiseProcess, spec: TimestepsSpec, latents: Tensor) -> NoiseProcess:
    """Return the noise process of a model for latents [B, C, h, w], shifted as the spec says."""
    by_itself = isinstance(process, Flow) and process.by_size is not None and spec.shift == "resolution"
    if spec.shift == AS_THE_MODEL or by_itself or not isinstance(process, Flow):
        return process.of_size(*latents.shape[-2:])
    scheduler = family.pipeline.scheduler.config
    if spec.shift == "resolution":
        side = family.size_multiple / family.vae_scale
        wanted = resolution_shift(scheduler, int(latents.shape[-2] / side) * int(latents.shape[-1] / side))
    else:
        wanted = float(spec.shift)
    # A scheduler that shifts by resolution leaves the levels that it begins with as they are.
    own = 1.0 if scheduler.get("use_dynamic_shifting") else float(scheduler.get("shift", 1.0))
    return process.shifted(wanted / own)


def resolution_shift(scheduler: Any, tokens: int) -> float:
    """Return the shift of an image of so many tokens, by a scheduler's configuration.

    Flux, and Stable Diffusion 3 with section 5.3.2 of arXiv 2403.03206: it grows with the number of tokens, as the same
    noise hides less of a larger image.
    """
    few, many = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
    mu = float(low + (high - low) * (tokens - few) / (many - few))
    return mu if scheduler.get("time_shift_type") == "linear" else math.exp(mu)


def draw(process: NoiseProcess, count: int, generator: torch.Generator, spec: TimestepsSpec) -> Tensor:
    """Return random timesteps [count] on the device of the generator."""
    is_flow = isinstance(process, Flow)
    kind = spec.distribution
    if kind == AS_THE_MODEL:
        kind = "logit_normal" if is_flow else "uniform"
    if kind == "uniform":
        return torch.randint(process.timestep_count, (count,), generator=generator, device=generator.device)
    remaining = _signal(kind, count, generator, spec)
    # Flow matching counts from noise to image, diffusion from image to noise.
    places = (remaining if is_flow else 1 - remaining) * process.timestep_count
    return places.long().clamp(0, process.timestep_count - 1)


def _signal(kind: str, count: int, generator: torch.Generator, spec: TimestepsSpec) -> Tensor:
    """Return random places between noise, 0, and image, 1."""
    if kind == "logit_normal":
        normals = torch.randn(count, generator=generator, device=generator.device)
        return logit_normal(normals, -spec.mean, spec.deviation)
    return 1 - mode(torch.rand(count, generator=generator, device=generator.device), spec.mode_scale)


def logit_normal(normals: Tensor, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
    """Return values in (0, 1) from standard normals, densest at the logistic of the mean (arXiv 2403.03206, 3.1)."""
    return torch.sigmoid(deviation * normals + mean)


def mode(uniform: Tensor, scale: float) -> Tensor:
    """Return noise levels from uniform numbers: more of the middle, or less of it with a negative scale (same, 3.1)."""
    return 1 - uniform - scale * (torch.cos(math.pi / 2 * uniform).square() - 1 + uniform)
