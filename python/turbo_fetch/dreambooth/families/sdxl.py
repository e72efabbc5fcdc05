"""Stable Diffusion XL: two CLIP text encoders, a UNet that is also told sizes (arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from turbo_fetch.dreambooth.families.family import Conditioning, tokens
from turbo_fetch.dreambooth.families.sd import StableDiffusion, original_clip, original_open_clip


class StableDiffusionXL(StableDiffusion):
    """See the module."""

    name = "sdxl"
    pipeline_name = "StableDiffusionXLPipeline"
    text_encoder_names = ("text_encoder", "text_encoder_2")
    fp32_vae = True
    not_loaded: ClassVar[Mapping[str, Any]] = {}
    kohya_prefixes: ClassVar[Mapping[str, str]] = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }
    embedding_keys: ClassVar[Mapping[str, str]] = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family."""
        hidden = []
        for name, encoder in self.text_encoders.items():
            ids = tokens(self.tokenizers[name], captions, encoder.device)
            output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
        # The second encoder's pooled projection is the one that the UNet was trained with.
        return {"hidden": torch.cat(hidden, dim=-1), "pooled": output[0]}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See Family."""
        predicted: Tensor = self.pipeline.unet(
            noisy,
            timesteps,
            text["hidden"],
            added_cond_kwargs={"text_embeds": text["pooled"], "time_ids": sizes.to(noisy.dtype)},
            return_dict=False,
        )[0]
        return predicted

    def _original_text(self) -> dict[str, Tensor]:
        first, second = (encoder.state_dict() for encoder in self.text_encoders.values())
        return original_clip(first, "conditioner.embedders.0.transformer.") | original_open_clip(
            second, "conditioner.embedders.1.model."
        )
