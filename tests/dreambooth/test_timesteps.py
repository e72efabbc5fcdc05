"""Timesteps are drawn and shifted as the papers and diffusers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling

from tiny_models import tiny_sd3
from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.families.noise import Diffusion, Flow, NoiseProcess, shift
from turbo_fetch.dreambooth.families.timesteps import draw, process_at, resolution_shift
from turbo_fetch.spec.train_tables import TimestepsSpec

COUNT = 100_000
PROCESSES: dict[str, NoiseProcess] = {
    "diffusion": Diffusion(torch.linspace(0.99, 0.01, 1000), "epsilon"),
    "flow": Flow(torch.linspace(1, 0.001, 1000), torch.linspace(1000, 1, 1000)),
}
DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "uniform": {"distribution": "uniform"},
    "logit_normal": {"distribution": "logit_normal", "mean": 0.7, "deviation": 0.5},
    "mode": {"distribution": "mode", "mode_scale": 1.29},
}


def levels(process: str, spec: TimestepsSpec) -> torch.Tensor:
    """Return the noise levels of drawn timesteps, from 0 to 1."""
    places = draw(PROCESSES[process], COUNT, torch.Generator().manual_seed(0), spec) / 1000
    return 1 - places if process == "flow" else places


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_levels_are_distributed_as_those_of_diffusers(process: str, name: str) -> None:
    spec = TimestepsSpec(**DISTRIBUTIONS[name])
    theirs = compute_density_for_timestep_sampling(
        name, COUNT, spec.mean, spec.deviation, spec.mode_scale, generator=torch.Generator().manual_seed(1)
    )
    at = torch.linspace(0.01, 0.99, 99)
    difference = levels(process, spec).quantile(at) - theirs.quantile(at)
    assert difference.abs().max() < 0.01


@pytest.mark.parametrize(("process", "as_trained"), [("diffusion", "uniform"), ("flow", "logit_normal")])
def test_what_is_not_said_is_as_the_model_was_trained(process: str, as_trained: str) -> None:
    said = levels(process, TimestepsSpec.model_validate({"distribution": as_trained}))
    assert torch.equal(levels(process, TimestepsSpec()), said)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_a_shift_by_resolution_is_that_of_the_scheduler(kind: str, tokens: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    config = scheduler.config  # type: ignore[attr-defined]
    mu = calculate_shift(
        tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    )
    plain = torch.linspace(1, 0.001, 1000)
    scheduler.set_timesteps(sigmas=plain.tolist(), mu=mu)  # type: ignore[attr-defined]
    shifted = Flow(plain, 1000 * plain).shifted(resolution_shift(config, tokens))
    torch.testing.assert_close(shifted.sigmas, scheduler.sigmas[:-1])  # type: ignore[attr-defined]
    torch.testing.assert_close(shifted.times, scheduler.timesteps)  # type: ignore[attr-defined]


def test_shifts_add_up() -> None:
    plain = torch.linspace(1, 0.001, 1000)
    torch.testing.assert_close(shift(shift(plain, 3.0), 2 / 3), shift(plain, 2.0))


def test_a_model_is_trained_with_the_shift_that_is_asked_for(tmp_path: Path) -> None:
    family = families.load(str(tiny_sd3(tmp_path)))
    scheduler, process = family.pipeline.scheduler, family.process()
    assert scheduler.config.shift == 3.0
    latents = torch.zeros(1, 16, 64, 96)
    tokens = (64 // 2) * (96 // 2)
    for wanted, factor in ((2.0, 2.0), ("resolution", resolution_shift(scheduler.config, tokens))):
        found = process_at(family, process, TimestepsSpec.model_validate({"shift": wanted}), latents)
        assert isinstance(found, Flow)
        expected = FlowMatchEulerDiscreteScheduler(shift=factor)
        torch.testing.assert_close(found.sigmas, expected.sigmas)  # type: ignore[attr-defined]
        torch.testing.assert_close(found.times, expected.timesteps)  # type: ignore[attr-defined]
    assert process_at(family, process, TimestepsSpec(), latents) is process
