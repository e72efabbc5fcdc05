"""How latents become noisy and what the model is to say of them: diffusion and flow matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from turbo_fetch.dreambooth import objectives
from turbo_fetch.dreambooth.objectives import Prediction


class Process(Protocol):
    """From latents, noise and levels [B] (integers below `levels`) to the model's input and its target."""

    @property
    def levels(self) -> int:
        """How many levels there are."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return random levels [count] on the device of the generator."""

    def noisy(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Return what the model sees."""

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Return what the model is to predict."""

    def timesteps(self, levels: Tensor) -> Tensor:
        """Return the levels as the model is told them."""

    def weights(self, levels: Tensor, snr_gamma: float | None) -> Tensor | None:
        """Return the weight of each example in the loss, or None where all are 1."""


@dataclass(frozen=True)
class Diffusion:
    """Gaussian diffusion with the products `alphas_bar` [T] of a DDPM schedule."""

    alphas_bar: Tensor
    prediction: Prediction

    @property
    def levels(self) -> int:
        """How many timesteps there are."""
        return len(self.alphas_bar)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return uniform timesteps."""
        return torch.randint(self.levels, (count,), generator=generator, device=generator.device)

    def noisy(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """See objectives.diffuse."""
        return objectives.diffuse(latents, noise, self.alphas_bar[levels])

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Return the noise, or the velocity."""
        if self.prediction == "v_prediction":
            return objectives.velocity(latents, noise, self.alphas_bar[levels])
        return noise

    def timesteps(self, levels: Tensor) -> Tensor:
        """Return the levels as they are."""
        return levels

    def weights(self, levels: Tensor, snr_gamma: float | None) -> Tensor | None:
        """See objectives.min_snr_weight."""
        if snr_gamma is None:
            return None
        snr = objectives.signal_to_noise(self.alphas_bar[levels])
        return objectives.min_snr_weight(snr, snr_gamma, self.prediction)


@dataclass(frozen=True)
class Flow:
    """Flow matching along the `sigmas` [T] of a schedule, which the model is told as `times` [T]."""

    sigmas: Tensor
    times: Tensor

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return len(self.sigmas)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return levels that are densest in the middle."""
        normals = torch.randn(count, generator=generator, device=generator.device)
        return (objectives.logit_normal(normals) * self.levels).long().clamp(max=self.levels - 1)

    def noisy(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """See objectives.interpolate."""
        return objectives.interpolate(latents, noise, self.sigmas[levels])

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """See objectives.flow_velocity."""
        return objectives.flow_velocity(latents, noise)

    def timesteps(self, levels: Tensor) -> Tensor:
        """Return the times of the levels."""
        return self.times[levels]

    def weights(self, levels: Tensor, snr_gamma: float | None) -> Tensor | None:
        """Return None: the density of `draw` weighs already."""
        return None
