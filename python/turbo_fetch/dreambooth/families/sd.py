"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet, diffusion by epsilon or velocity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

from diffusers import DDPMScheduler
from torch import Tensor

from turbo_fetch.dreambooth.families.family import Conditioning, Family, tokens
from turbo_fetch.dreambooth.objectives import Prediction
from turbo_fetch.dreambooth.processes import Diffusion


class StableDiffusion(Family):
    """See the module."""

    name = "sd"
    denoiser_name = "unet"
    text_encoder_names: ClassVar[tuple[str, ...]] = ("text_encoder",)

    def process(self, kind: str = "auto") -> Diffusion:
        """See Family."""
        schedule = DDPMScheduler.from_config(self.pipeline.scheduler.config)
        prediction = schedule.config.prediction_type if kind == "auto" else kind
        return Diffusion(schedule.alphas_cumprod, cast(Prediction, prediction))

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family."""
        encoder = self.pipeline.text_encoder
        ids = tokens(self.pipeline.tokenizer, captions, encoder.device)
        return {"hidden": encoder(ids).last_hidden_state}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See Family."""
        predicted: Tensor = self.pipeline.unet(noisy, timesteps, text["hidden"], return_dict=False)[0]
        return predicted
