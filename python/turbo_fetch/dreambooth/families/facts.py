"""What is true of a model beside its weights, read from and written to the one place that holds it.

That place is what the model came with: the settings of its scheduler, pipeline and text encoder. They are loaded,
sampled with and saved with the model, so that what is settled there holds in training, in samples, in `[generate]`
and in exports.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DDPMScheduler
from torch import Tensor

PREDICTION_KEY: Final = "turbo_fetch.prediction"
CLIP_SKIP_KEY: Final = "turbo_fetch.clip_skip"
"""In the header of a LoRA: what it was trained with, if its base says otherwise."""

_LEAST_ALPHA_BAR: Final = 2.0**-24
"""What diffusers' samplers put in the place of a signal of exactly zero, whose noise level would be infinite."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is true of a model, whatever its weights."""

    prediction: str
    """What the denoiser predicts: `epsilon`, `v_prediction`, `flow`, or another word of its scheduler."""
    zero_terminal_snr: bool
    """Whether the last timestep is noise without any signal (arXiv 2305.08891)."""
    zero_empty_prompt: bool
    """Whether an empty prompt is zeros, and not what the text encoders make of it."""
    clip_skip: int
    """How many layers at the end of the text encoder are passed over."""

    @classmethod
    def of(cls, pipeline: Any) -> ModelFacts:
        """Return the facts of a loaded pipeline."""
        scheduler = pipeline.scheduler.config
        encoder = getattr(pipeline.text_encoder, "config", None)
        return cls(
            prediction=scheduler.get("prediction_type", "flow"),
            zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
            zero_empty_prompt=bool(pipeline.config.get("force_zeros_for_empty_prompt", False)),
            clip_skip=int(getattr(encoder, "clip_skip", 0)),
        )

    @property
    def markers(self) -> dict[str, Tensor]:
        """The empty tensors by which ComfyUI and the web UIs know such a model from a single file."""
        names = (("v_pred", self.prediction == "v_prediction"), ("ztsnr", self.zero_terminal_snr))
        return {name: torch.zeros(0) for name, holds in names if holds}


def has_zero_terminal_snr(base: str) -> bool:
    """Return whether a model says so, without loading its weights; a single file says it when it is loaded."""
    if Path(base).is_file():
        return False
    try:
        settings: Any = DDPMScheduler.load_config(base, subfolder="scheduler")
    except OSError:
        return False
    return bool(settings.get("rescale_betas_zero_snr", False))


def settle(pipeline: Any, **settings: object) -> None:
    """Have the model's scheduler say this of it from now on."""
    own = pipeline.scheduler
    pipeline.scheduler = type(own).from_config(own.config, **settings)


def noise_schedule(scheduler: Any) -> Any:
    """Return the DDPM schedule that a model was trained with, whatever sampler it came with."""
    return DDPMScheduler.from_config(scheduler.config)


def zero_snr_betas(scheduler: Any) -> list[float]:
    """Return the betas of a zero-terminal-SNR model, for samplers that cannot rescale them themselves."""
    alphas_bar = noise_schedule(scheduler).alphas_cumprod.double().clamp(min=_LEAST_ALPHA_BAR)
    before = torch.cat([alphas_bar.new_ones(1), alphas_bar[:-1]])
    betas: list[float] = (1 - alphas_bar / before).tolist()
    return betas
