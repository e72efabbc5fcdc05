"""How latents become noisy and what the model is to predict: diffusion and flow matching.

One formula per function, then the two processes that are made of them. Shapes: B examples, latents [B, C, H, W], one
timestep per example [B]: an integer below `timestep_count`, which counts places in the schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` [B] in a shape that broadcasts over `like` [B, …]."""
    return values.reshape(-1, *([1] * (like.ndim - 1)))


def diffuse(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return q(x_t | x_0), equation 4 of DDPM (arXiv 2006.11239); `alpha_bar` is [B]."""
    alpha_bar = per_example(alpha_bar, latents)
    return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise


def velocity(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return v = αε - σx, progressive distillation (arXiv 2202.00512, section 4)."""
    alpha_bar = per_example(alpha_bar, latents)
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents


def signal_to_noise(alpha_bar: Tensor) -> Tensor:
    """Return α² / σ² of each timestep."""
    return alpha_bar / (1 - alpha_bar)


def min_snr_weight(snr: Tensor, gamma: float, prediction: Prediction) -> Tensor:
    """Return min(SNR, γ) / SNR for epsilon, min(SNR, γ) / (SNR + 1) for v (arXiv 2303.09556, section 3.4).

    Under zero terminal SNR the epsilon weight tends to 1, which is what a timestep without signal gets.
    """
    capped = snr.clamp(max=gamma)
    if prediction == "v_prediction":
        return capped / (snr + 1)
    return torch.where(snr > 0, capped / snr, torch.ones_like(snr))


def interpolate(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Return the point at σ on the straight line from data to noise (rectified flow, arXiv 2209.03003)."""
    sigmas = per_example(sigmas, latents)
    return (1 - sigmas) * latents + sigmas * noise


def flow_velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """Return the direction of that line, which is what flow matching predicts (arXiv 2210.02747)."""
    return noise - latents


def shift(sigmas: Tensor, factor: float) -> Tensor:
    """Return noise levels of which more are noisy, for a factor above 1 (SD3, arXiv 2403.03206, equation 23)."""
    return factor * sigmas / (1 + (factor - 1) * sigmas)


def at(schedule: Tensor, timesteps: Tensor) -> Tensor:
    """Return the values of a schedule at timesteps, on their device.

    It is moved at each use: a buffer of the trained module would be rounded with its weights by DeepSpeed.
    """
    return schedule.to(timesteps.device)[timesteps]


class NoiseProcess(Protocol):
    """From latents, noise and timesteps to the model's input and its target."""

    def of_size(self, height: int, width: int) -> NoiseProcess:
        """Return the process for latents of a size, which some models see noisier the larger they are."""

    @property
    def timestep_count(self) -> int:
        """How many timesteps there are."""

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the model sees."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the model is to predict."""

    def model_times(self, timesteps: Tensor) -> Tensor:
        """Return the timesteps as the model is told them."""

    def weights(self, timesteps: Tensor, snr_gamma: float | None) -> Tensor | None:
        """Return the weight of each example in the loss, or None where all are 1."""


@dataclass(frozen=True)
class Diffusion:
    """Gaussian diffusion with the products `alphas_bar` [T] of a DDPM schedule."""

    alphas_bar: Tensor
    prediction: Prediction

    @property
    def timestep_count(self) -> int:
        """See NoiseProcess."""
        return len(self.alphas_bar)

    def of_size(self, height: int, width: int) -> Diffusion:
        """Return itself: it is the same for all sizes."""
        return self

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """See diffuse."""
        return diffuse(latents, noise, at(self.alphas_bar, timesteps))

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noise, or the velocity."""
        if self.prediction == "v_prediction":
            return velocity(latents, noise, at(self.alphas_bar, timesteps))
        return noise

    def model_times(self, timesteps: Tensor) -> Tensor:
        """Return the timesteps as they are."""
        return timesteps

    def weights(self, timesteps: Tensor, snr_gamma: float | None) -> Tensor | None:
        """See min_snr_weight."""
        if snr_gamma is None:
            return None
        return min_snr_weight(signal_to_noise(at(self.alphas_bar, timesteps)), snr_gamma, self.prediction)


@dataclass(frozen=True)
class Flow:
    """Flow matching along the `sigmas` [T] of a schedule, which the model is told as `times` [T]."""

    sigmas: Tensor
    times: Tensor
    by_size: Callable[[int, int], tuple[Tensor, Tensor]] | None = None
    """From height and width of latents to their sigmas and times, for a model whose schedule depends on them."""

    def of_size(self, height: int, width: int) -> Flow:
        """See NoiseProcess."""
        if self.by_size is None:
            return self
        sigmas, times = self.by_size(height, width)
        return Flow(sigmas, times)

    @property
    def timestep_count(self) -> int:
        """See NoiseProcess."""
        return len(self.sigmas)

    def shifted(self, factor: float) -> Flow:
        """Return the same with its noise levels shifted; see shift."""
        sigmas = shift(self.sigmas, factor)
        scale = torch.where(self.sigmas > 0, self.times / self.sigmas, 0)
        return Flow(sigmas, sigmas * scale)

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """See interpolate."""
        return interpolate(latents, noise, at(self.sigmas, timesteps))

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """See flow_velocity."""
        return flow_velocity(latents, noise)

    def model_times(self, timesteps: Tensor) -> Tensor:
        """Return the times of the timesteps."""
        return at(self.times, timesteps)

    def weights(self, timesteps: Tensor, snr_gamma: float | None) -> Tensor | None:
        """Return None: how often each timestep is drawn weighs already."""
        return None
