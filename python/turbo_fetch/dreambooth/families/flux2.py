"""Flux.2 Klein: a Qwen3 that is read at three depths, a transformer, latents in the scale of a batch normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from turbo_fetch.dreambooth.families.family import Conditioning, Posterior
from turbo_fetch.dreambooth.families.flow import (
    FlowFamily,
    before_each,
    chats,
    generic_lora_names,
    language_tokens,
    packed,
    places,
    unpacked,
)

QWEN_TOKENS = 512
"""As many as the pipeline of diffusers reads."""
QWEN_LAYERS = (9, 18, 27)
"""After which layers the text is read."""
USUAL_STEPS = 50
"""Of sampling: the noise levels of an image depend on it, and training is for those of as many."""


class Flux2Klein(FlowFamily):
    """See the module."""

    name = "flux2"
    pipeline_name = "Flux2KleinPipeline"
    text_encoder_names: ClassVar[tuple[str, ...]] = ()
    guidance = 4.0
    has_negative_prompt = False
    # Attention of both streams; the single one has it and its feed-forward in one matrix.
    lora_targets = (
        *("to_k", "to_q", "to_v", "to_out.0"),
        *("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out"),
        "to_qkv_mlp_proj",
    )

    def shift_exponent(self, tokens: int) -> float:
        """See FlowFamily: as the model's authors measured it."""
        return float(compute_empirical_mu(tokens, USUAL_STEPS))

    def call_arguments(
        self, prompts: list[str], guidance: float | None, negative: str = ""
    ) -> dict[str, Any]:
        """See Family: it is guided away from the empty prompt alone."""
        arguments = super().call_arguments(prompts, guidance, negative)
        del arguments["negative_prompt"]
        return arguments

    def header(self) -> dict[str, str]:
        """See Family: in the words of musubi-tuner; the larger of the two models is the wider one."""
        config = self.pipeline.transformer.config
        size = "4b" if config.num_attention_heads * config.attention_head_dim <= 3072 else "9b"
        return {
            "modelspec.architecture": f"Flux.2-klein-{size}",
            "modelspec.implementation": "https://github.com/black-forest-labs/flux2",
            "ss_base_model_version": f"flux_2_klein_{size}",
            "ss_v2": "False",
        }

    def lora_names(self, component: str, module: str) -> tuple[str, ...]:
        """See Family: ComfyUI knows this family by diffusers' names; the others are other trainers'."""
        return (*generic_lora_names(component, module), f"lora_transformer_{module.replace('.', '_')}")

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Posterior:
        """See Family: normalised by the statistics that the VAE has of its latents, of each of a token's numbers."""
        vae = self.vae
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        height, width = posterior.mean.shape[-2:]

        def everywhere(numbers: Tensor) -> Tensor:
            of_a_token = numbers.float().view(1, -1, self.patch, self.patch)
            return of_a_token.repeat(1, 1, height // self.patch, width // self.patch)

        mean = everywhere(vae.bn.running_mean)
        deviation = everywhere(torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps))
        return Posterior((posterior.mean.float() - mean) / deviation, posterior.std.float() / deviation)

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family."""
        encoder, tokenizer = self.pipeline.text_encoder, self.pipeline.tokenizer
        texts = chats(tokenizer, captions, enable_thinking=False)
        ids, mask = language_tokens(tokenizer, texts, QWEN_TOKENS, encoder.device)
        seen = mask.bool()[:, None, None, :] & before_each(QWEN_TOKENS, ids.device)
        with torch.no_grad():
            states = encoder(
                input_ids=ids, attention_mask=seen, output_hidden_states=True, use_cache=False
            ).hidden_states
        return {"hidden": torch.cat([states[layer] for layer in QWEN_LAYERS], dim=-1)}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See Family."""
        height, width = noisy.shape[-2:]
        hidden = text["hidden"]
        predicted = self.pipeline.transformer(
            hidden_states=packed(noisy, self.patch),
            timestep=timesteps / 1000,
            guidance=None,
            encoder_hidden_states=hidden,
            txt_ids=places(1, 1, 1, hidden.shape[1], device=noisy.device),
            img_ids=places(1, height // self.patch, width // self.patch, 1, device=noisy.device),
            return_dict=False,
        )[0]
        return unpacked(predicted, height, width, self.patch)
