"""Stable Diffusion 3 and 3.5: two CLIPs and an optional T5, a transformer, flow matching (arXiv 2403.03206)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from turbo_fetch.dreambooth.families.family import Conditioning, Family, tokens, with_wrapper
from turbo_fetch.dreambooth.families.flow import FlowFamily, language_tokens, with_every_token
from turbo_fetch.dreambooth.families.latent_space import Sides
from turbo_fetch.dreambooth.families.layout import DIFFUSION_MODEL, Layout
from turbo_fetch.dreambooth.families.sd import VAE, original_t5, original_vae
from turbo_fetch.dreambooth.families.sd3_layout import sd3_layout

T5_TOKENS = 77
"""Length of the T5 part in training, as in the model's own fine-tuning recipe."""


class StableDiffusion3(FlowFamily):
    """See the module."""

    name = "sd3"
    pipeline_name = "StableDiffusion3Pipeline"
    text_encoder_names = ("text_encoder", "text_encoder_2")
    optional = ("text_encoder_3", "tokenizer_3")
    # A T5 overflows in fp16 but for the way in which transformers computes it.
    own_type: ClassVar[Mapping[str, tuple[str, ...]]] = {**Family.own_type, "text_encoder_3": ("forward",)}
    marks = ("joint_blocks.0.x_block.attn.qkv.weight", "context_embedder.weight")
    parts_in_files: ClassVar[Mapping[str, str]] = {
        "vae": VAE,
        "text_encoder": "text_encoders.clip_l.transformer.",
        "text_encoder_2": "text_encoders.clip_g.transformer.",
        "text_encoder_3": "text_encoders.t5xxl.transformer.",
    }
    embedding_keys: ClassVar[Mapping[str, str]] = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> str:
        """See FlowFamily."""
        if "joint_blocks.0.x_block.attn.ln_q.weight" not in weights:
            return "stabilityai/stable-diffusion-3-medium-diffusers"
        is_medium = "joint_blocks.0.x_block.attn2.qkv.weight" in weights
        return f"stabilityai/stable-diffusion-3.5-{'medium' if is_medium else 'large'}"

    @classmethod
    def layout_of(cls, denoiser: Mapping[str, Any]) -> Layout:
        """See FlowFamily."""
        return sd3_layout(int(denoiser["num_layers"]))

    @classmethod
    def patch_of(cls, denoiser: Mapping[str, Any]) -> int:
        """See FlowFamily."""
        return int(denoiser["patch_size"])

    @classmethod
    def sides(cls, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> Sides:
        """See Family: as many tokens along a side as there are positions."""
        multiple = super().sides(denoiser, vae).multiple
        return Sides(multiple, multiple * int(denoiser["pos_embed_max_size"]))

    def whole_prompts(self, prompts: list[str]) -> list[str]:
        """See Family: this pipeline alone reads only the first token of a new word."""
        return with_every_token(prompts, self.pipeline.tokenizer)

    def header(self) -> dict[str, str]:
        """See Family."""
        config = self.pipeline.transformer.config
        size = "medium"
        if config.get("qk_norm"):
            size = "5-medium" if config.get("dual_attention_layers") else "5-large"
        return {
            "modelspec.architecture": f"stable-diffusion-3-{size}",
            "modelspec.implementation": "diffusers",
            "ss_base_model_version": size,
            "ss_v2": "False",
        }

    def lora_names(self, component: str, module: str) -> tuple[str, ...]:
        """See Family: ComfyUI and AUTOMATIC1111 know this family by diffusers' names, ComfyUI also by OneTrainer's."""
        path = with_wrapper(component, module).replace(".", "_")
        prefix = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}.get(component, "lora_transformer")
        return (*super().lora_names(component, module), f"{prefix}_{path}")

    def original_weights(self) -> dict[str, Tensor]:
        """See Family."""
        pipeline, prefixes = self.pipeline, self.parts_in_files
        weights = {f"{DIFFUSION_MODEL}{name}": weight for name, weight in super().original_weights().items()}
        weights |= original_vae(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels))
        for name, encoder in self.text_encoders.items():
            weights |= {prefixes[name] + key: weight for key, weight in encoder.state_dict().items()}
        t5 = {} if pipeline.text_encoder_3 is None else pipeline.text_encoder_3.state_dict()
        return weights | original_t5(t5, prefixes["text_encoder_3"])

    def single_file_header(self) -> dict[str, str]:
        """See Family: its files hold all of it."""
        return Family.single_file_header(self)

    def readers(self, caption: str) -> Iterator[tuple[str, int, int]]:
        """See Family."""
        yield from super().readers(caption)
        if self.pipeline.text_encoder_3 is not None:
            yield "T5", len(self.pipeline.tokenizer_3(caption).input_ids), T5_TOKENS

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
        ids, _ = language_tokens(self.pipeline.tokenizer_3, captions, T5_TOKENS, encoder.device)
        with torch.no_grad():
            hidden: Tensor = encoder(ids)[0]
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
