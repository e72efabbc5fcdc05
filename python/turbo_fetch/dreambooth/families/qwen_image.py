"""Qwen-Image: the language part of Qwen2.5-VL, a transformer of two streams, flow matching (arXiv 2508.02324)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from turbo_fetch.dreambooth.families.family import Conditioning
from turbo_fetch.dreambooth.families.flow import (
    FlowFamily,
    generic_lora_names,
    packed,
    padded_tokens,
    unpacked,
)
from turbo_fetch.dreambooth.families.latent_space import Posterior


class QwenImage(FlowFamily):
    """See the module."""

    name = "qwen-image"
    pipeline_name = "QwenImagePipeline"
    text_encoder_names: ClassVar[tuple[str, ...]] = ()
    # As the model's own page has it.
    guidance = 4.0
    # With one, its scheduler divides by zero.
    least_steps = 2
    # The attention of both streams.
    lora_targets = (
        *FlowFamily.lora_targets,
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )

    # Of no other name in files.
    marks = ("transformer_blocks.0.img_mod.1.weight", "txt_norm.weight")

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> str:
        """See FlowFamily."""
        return "Qwen/Qwen-Image"

    @classmethod
    def scale_of(cls, vae: Mapping[str, Any]) -> int:
        """See Family: its VAE is one of videos."""
        return int(2 ** len(vae["temperal_downsample"]))

    @property
    def latent_channels(self) -> int:
        """See Family."""
        return int(self.vae.config.z_dim)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Posterior:
        """See Family: an image is a video of one frame, whose channels have a mean and a deviation each."""
        video = pixels.to(self.vae.device, self.vae.dtype).unsqueeze(2)
        posterior = self.vae.encode(video).latent_dist
        mean, deviation = self._statistics(posterior.mean.device)
        return Posterior(
            ((posterior.mean.float() - mean) / deviation).squeeze(2),
            (posterior.std.float() / deviation).squeeze(2),
        )

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of the latents, as [1, C, 1, 1, 1]."""
        config = self.vae.config
        mean, deviation = (
            torch.tensor(values, device=device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, deviation

    def decode(self, latents: Tensor) -> Tensor:
        """See Family."""
        return super().decode(latents.unsqueeze(2)).squeeze(2)

    def call_arguments(
        self, prompts: list[str], guidance: float | None, negative: str = ""
    ) -> dict[str, Any]:
        """See Family: `guidance_scale` is for distilled models, and the blank stands for no negative prompt."""
        scale = self.guidance_of(guidance)
        return {
            "prompt": self.whole_prompts(prompts),
            "negative_prompt": [negative or " "] * len(prompts) if scale > 1 else None,
            "true_cfg_scale": scale,
        }

    def header(self) -> dict[str, str]:
        """See Family: in the words of musubi-tuner."""
        return {
            "modelspec.architecture": "Qwen-Image",
            "modelspec.implementation": "https://github.com/QwenLM/Qwen-Image",
            "ss_base_model_version": "qwen_image",
            "ss_v2": "False",
        }

    def lora_names(self, component: str, module: str) -> tuple[str, ...]:
        """See Family."""
        return generic_lora_names(component, module)

    def token_count(self, caption: str) -> int:
        """See Family."""
        return len(self.pipeline.tokenizer(self.pipeline.prompt_template_encode.format(caption)).input_ids)

    def readers(self, caption: str) -> Iterator[tuple[str, int, int]]:
        """See Family."""
        # With the words of the template before it.
        pipeline = self.pipeline
        most = pipeline.tokenizer_max_length + pipeline.prompt_template_encode_start_idx
        yield "Qwen2.5", self.token_count(caption), most

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family: what the language model makes of the captions, without the words of the template before them."""
        pipeline = self.pipeline
        encoder, skipped = pipeline.text_encoder, pipeline.prompt_template_encode_start_idx
        texts = [pipeline.prompt_template_encode.format(caption) for caption in captions]
        most = pipeline.tokenizer_max_length + skipped
        ids, lengths = padded_tokens(pipeline.tokenizer, texts, most, encoder.device)
        with torch.no_grad():
            # Without its last layer, which makes numbers for each word of the vocabulary.
            hidden = encoder.model(input_ids=ids, use_cache=False).last_hidden_state
        return {"hidden": hidden[:, skipped:], "lengths": lengths - skipped}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See Family."""
        height, width = noisy.shape[-2:]
        hidden, lengths = text["hidden"], text["lengths"].int()
        longest = int(lengths.max())
        mask = None
        if int(lengths.min()) < longest:
            mask = (torch.arange(longest) < lengths[:, None]).to(noisy.device)
        predicted: Tensor = self.pipeline.transformer(
            hidden_states=packed(noisy),
            timestep=timesteps / 1000,
            encoder_hidden_states=hidden[:, :longest],
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
            return_dict=False,
        )[0]
        return unpacked(predicted, height, width)
