"""What is minimised: one formula per function, as pure functions of tensors.

SizeHistogram: B examples, C channels, latents [B, C, H, W]; whatever is one number per example is [B].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, slots=True)
class DualLoss:
    """The loss of one batch and its two parts, each a scalar; `prior` is None without class pictures."""

    total: Tensor
    subject: Tensor
    prior: Tensor | None


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


def offset(noise: Tensor, shifts: Tensor, strength: float) -> Tensor:
    """Add `shifts` [B, C], the same over each whole channel (Guttenberg, "Diffusion with Offset Noise", 2023)."""
    return noise + strength * shifts[:, :, None, None]


def interpolate(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Return the point at σ on the straight line from data to noise (rectified flow, arXiv 2209.03003)."""
    sigmas = per_example(sigmas, latents)
    return (1 - sigmas) * latents + sigmas * noise


def flow_velocity(latents: Tensor, noise: Tensor) -> Tensor:
    """Return the direction of that line, which is what flow matching predicts (arXiv 2210.02747)."""
    return noise - latents


def logit_normal(normals: Tensor) -> Tensor:
    """Return times in (0, 1), densest in the middle, from standard normals (SD3, arXiv 2403.03206, section 3.1)."""
    return torch.sigmoid(normals)


def example_errors(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean squared error of each example [B], in fp32.

    With a `mask` [B, 1, H, W] of non-negative weights it is the weighted mean, so that the size of the masked
    part does not change the size of the step. An example whose mask is all zero counts nothing.
    """
    squares = (prediction.float() - target.float()).square()
    if mask is None:
        return squares.flatten(1).mean(1)
    total = mask.expand_as(squares).flatten(1).sum(1)
    return (squares * mask).flatten(1).sum(1) / total.clamp(min=torch.finfo(total.dtype).tiny)


def dual_loss(errors: Tensor, weights: Tensor | None, subjects: int, prior_weight: float) -> DualLoss:
    """Return loss = subject + λ prior, equation 2 of DreamBooth (arXiv 2208.12242).

    The first `subjects` of the `errors` [B] are of the subject, the rest are of its class. `weights` [B] belong
    to the timesteps of the examples, so each half is weighed by its own.
    """
    if weights is not None:
        errors = errors * weights
    subject = errors[:subjects].mean()
    if subjects == len(errors):
        return DualLoss(subject, subject, None)
    prior = errors[subjects:].mean()
    return DualLoss(subject + prior_weight * prior, subject, prior)
