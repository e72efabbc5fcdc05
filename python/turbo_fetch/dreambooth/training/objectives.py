"""What is minimised: pure functions of tensors. B examples; latents [B, C, H, W]; one number per example is [B]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DualLoss:
    """The loss of one batch and its two parts, each a scalar; `prior` is None without class images."""

    total: Tensor
    subject: Tensor
    prior: Tensor | None


def offset(noise: Tensor, shifts: Tensor, strength: float) -> Tensor:
    """Add `shifts` [B, C], the same over each whole channel (Guttenberg, "Diffusion with Offset Noise", 2023)."""
    return noise + strength * shifts[:, :, None, None]


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
