"""Stable Diffusion 3 and 3.5: two CLIPs and an optional T5, a transformer, flow matching (arXiv 2403.03206)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin
from torch import Tensor
from torch.nn.functional import pad

from turbo_fetch.dreambooth.families.family import Conditioning, Family, Sides, tokens
from turbo_fetch.dreambooth.families.noise import Flow

T5_TOKENS = 77
"""Length of the T5 part in training, as in the model's own fine-tuning recipe."""


class StableDiffusion3(Family):
    """See the module."""

    name = "sd3"
    pipeline_name = "StableDiffusion3Pipeline"
    denoiser_name = "transformer"
    text_encoder_names = ("text_encoder", "text_encoder_2")
    optional = ("text_encoder_3", "tokenizer_3")
    any_sampler = False
    weighs_by_snr = False
    kohya_prefixes: ClassVar[Mapping[str, str]] = {
        "transformer": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }
    embedding_keys: ClassVar[Mapping[str, str]] = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}

    @property
    def size_multiple(self) -> int:
        """See Family."""
        return self.vae_scale * int(self.pipeline.transformer.config.patch_size)

    @classmethod
    def sides(cls, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> Sides:
        """See Family: patches of latents, as many along a side as there are positions."""
        patch = super().sides(denoiser, vae).multiple * int(denoiser["patch_size"])
        return Sides(patch, patch * int(denoiser["pos_embed_max_size"]))

    def whole_prompts(self, prompts: list[str]) -> list[str]:
        """See Family: this pipeline alone reads only the first token of a new word."""
        whole: list[str] = TextualInversionLoaderMixin().maybe_convert_prompt(
            prompts, self.pipeline.tokenizer
        )
        return whole

    def process(self, kind: str = "auto") -> Flow:
        """See Family; `kind` is always flow matching."""
        scheduler = self.pipeline.scheduler
        fresh = type(scheduler).from_config(scheduler.config)
        return Flow(fresh.sigmas[: len(fresh.timesteps)], fresh.timesteps)

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family."""
        hidden, pooled = [], []
        for name, encoder in self.text_encoders.items():
            ids = tokens(self.tokenizers[name], captions, encoder.device)
            output = encoder(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled.append(output[0])
        clip = torch.cat(hidden, dim=-1)
        clip = pad(clip, (0, self.pipeline.transformer.config.joint_attention_dim - clip.shape[-1]))
        return {
            "hidden": torch.cat([clip, self._t5(captions, clip)], dim=1),
            "pooled": torch.cat(pooled, dim=-1),
        }

    def _t5(self, captions: Sequence[str], clip: Tensor) -> Tensor:
        encoder = self.pipeline.text_encoder_3
        if encoder is None:
            return clip.new_zeros(len(captions), T5_TOKENS, clip.shape[-1])
        encoded = self.pipeline.tokenizer_3(
            list(captions), padding="max_length", max_length=T5_TOKENS, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            hidden: Tensor = encoder(encoded.input_ids.to(encoder.device))[0]
        return hidden.to(clip.dtype)

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See Family."""
        predicted: Tensor = self.pipeline.transformer(
            hidden_states=noisy,
            timestep=timesteps,
            encoder_hidden_states=text["hidden"],
            pooled_projections=text["pooled"],
            return_dict=False,
        )[0]
        return predicted
