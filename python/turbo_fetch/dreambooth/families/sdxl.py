"""Stable Diffusion XL: two CLIP text encoders, a UNet that is also told sizes (arXiv 2307.01952)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from turbo_fetch.dreambooth.families.family import Conditioning, tokens
from turbo_fetch.dreambooth.families.sd import (
    StableDiffusion,
    original_clip,
    original_open_clip,
    unet_name,
)
from turbo_fetch.spec.train_tables import USUAL_LEARNING_RATE, Part


class StableDiffusionXL(StableDiffusion):
    """See the module."""

    name = "sdxl"
    pipeline_name = "StableDiffusionXLPipeline"
    text_encoder_names = ("text_encoder", "text_encoder_2")
    resolution = 1024
    skips_layers = False
    trains_text_encoders = False
    # With which SDXL itself was trained, as kohya's README of sdxl_train.py says.
    learning_rates: ClassVar[Mapping[Part, float]] = {**USUAL_LEARNING_RATE, "full": 4e-7}
    fp32_vae = True
    not_loaded: ClassVar[Mapping[str, Any]] = {}
    kohya_prefixes: ClassVar[Mapping[str, str]] = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }
    embedding_keys: ClassVar[Mapping[str, str]] = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}

    def header(self) -> dict[str, str]:
        """See Family."""
        predicts_v = self.facts.prediction == "v_prediction"
        return {
            "modelspec.architecture": "stable-diffusion-xl-v1-base",
            "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
            "modelspec.prediction_type": "v" if predicts_v else "epsilon",
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_v2": "False",
        }

    def lora_names(self, component: str, module: str) -> tuple[str, ...]:
        """See Family: kohya's scripts train XL in its original layout, and read no other."""
        names = super().lora_names(component, module)
        if component != "unet":
            return names
        unet = self.pipeline.unet
        attending = [
            f"up_blocks.{number}.attentions."
            for number, block in enumerate(unet.up_blocks)
            if hasattr(block, "attentions")
        ]
        original = unet_name(f"{module}.", int(unet.config.layers_per_block), attending)
        return (f"lora_unet_{original.rstrip('.').replace('.', '_')}", *names)

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family."""
        hidden = []
        for name, encoder in self.text_encoders.items():
            ids = tokens(self.tokenizers[name], captions, encoder.device)
            output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
        # The second encoder's pooled projection is the one that the UNet was trained with.
        text = {"hidden": torch.cat(hidden, dim=-1), "pooled": output[0]}
        if not self.facts.zero_empty_prompt:
            return text
        said = torch.tensor([bool(caption) for caption in captions], device=output[0].device)
        return {
            name: value * said.view(-1, *[1] * (value.ndim - 1)).to(value.dtype)
            for name, value in text.items()
        }

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
