"""Flux.1: a CLIP for the whole of a prompt and a T5 for its words, a transformer that is told guidance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from turbo_fetch.dreambooth.families.family import Conditioning, Family, tokens, with_wrapper
from turbo_fetch.dreambooth.families.flow import (
    FlowFamily,
    language_tokens,
    packed,
    places,
    unpacked,
    with_every_token,
)
from turbo_fetch.dreambooth.families.layout import DIFFUSION_MODEL, Layout
from turbo_fetch.dreambooth.families.sd import original_clip, original_t5, original_vae

T5_TOKENS = 512
"""As many as the pipeline of diffusers reads."""

_ENDS: Final = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
OF_TWO_STREAMS: Final = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_q": "img_attn.qkv",
    "attn.to_k": "img_attn.qkv",
    "attn.to_v": "img_attn.qkv",
    "attn.add_q_proj": "txt_attn.qkv",
    "attn.add_k_proj": "txt_attn.qkv",
    "attn.add_v_proj": "txt_attn.qkv",
    "attn.norm_q": "img_attn.norm.query_norm.scale",
    "attn.norm_k": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k": "txt_attn.norm.key_norm.scale",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_OF_ONE_STREAM: Final = {
    "norm.linear": "modulation.lin",
    "attn.to_q": "linear1",
    "attn.to_k": "linear1",
    "attn.to_v": "linear1",
    "proj_mlp": "linear1",
    "attn.norm_q": "norm.query_norm.scale",
    "attn.norm_k": "norm.key_norm.scale",
    "proj_out": "linear2",
}


class Flux(FlowFamily):
    """See the module."""

    name = "flux"
    pipeline_name = "FluxPipeline"
    text_encoder_names = ("text_encoder",)
    optional = ("image_encoder", "feature_extractor")
    guidance = 3.5
    has_negative_prompt = False
    # Those of diffusers' own recipe: attention and feed-forward of both streams, attention of the single one.
    lora_targets = (
        *("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"),
        *("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    )
    # A T5 overflows in fp16 but for the way in which transformers computes it.
    own_type: ClassVar[Mapping[str, tuple[str, ...]]] = {**Family.own_type, "text_encoder_2": ("forward",)}
    embedding_keys: ClassVar[Mapping[str, str]] = {"text_encoder": "clip_l"}
    # The modules of black-forest-labs/flux.
    layout = Layout(
        _ENDS,
        {
            "transformer_blocks": ("double_blocks", OF_TWO_STREAMS),
            "single_transformer_blocks": ("single_blocks", _OF_ONE_STREAM),
        },
        swapped=frozenset({"norm_out.linear"}),
    )
    marks = (
        "double_blocks.0.img_attn.qkv.weight",
        "single_blocks.0.modulation.lin.weight",
        "vector_in.in_layer.weight",
    )
    # As ComfyUI keeps them all in one.
    parts_in_files: ClassVar[Mapping[str, str]] = {
        "vae": "vae.",
        "text_encoder": "text_encoders.clip_l.transformer.",
        "text_encoder_2": "text_encoders.t5xxl.transformer.",
    }

    def call_arguments(
        self, prompts: list[str], guidance: float | None, negative: str = ""
    ) -> dict[str, Any]:
        """See Family: the transformer is told the scale, and nothing is guided away from.

        The CLIP learns a new word, of which the pipeline gives it all tokens; the T5 reads them too, as in training.
        """
        arguments = super().call_arguments(prompts, guidance, negative)
        del arguments["negative_prompt"]
        return {**arguments, "prompt_2": with_every_token(prompts, self.pipeline.tokenizer)}

    def header(self) -> dict[str, str]:
        """See Family."""
        kind = "dev" if self.pipeline.transformer.config.guidance_embeds else "schnell"
        return {
            "modelspec.architecture": f"flux-1-{kind}",
            "modelspec.implementation": "https://github.com/black-forest-labs/flux",
            "ss_base_model_version": "flux1",
            "ss_v2": "False",
        }

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> str:
        """See FlowFamily."""
        kind = "dev" if "guidance_in.in_layer.weight" in weights else "schnell"
        return f"black-forest-labs/FLUX.1-{kind}"

    def original_weights(self) -> dict[str, Tensor]:
        """See Family: with its encoders, as a checkpoint of ComfyUI."""
        pipeline = self.pipeline
        vae = original_vae(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels), "vae.")
        return {
            **{f"{DIFFUSION_MODEL}{name}": weight for name, weight in super().original_weights().items()},
            **vae,
            **original_clip(pipeline.text_encoder.state_dict(), self.parts_in_files["text_encoder"]),
            **original_t5(pipeline.text_encoder_2.state_dict(), self.parts_in_files["text_encoder_2"]),
        }

    def lora_names(self, component: str, module: str) -> tuple[str, ...]:
        """See Family: ComfyUI and Forge know this family by diffusers' names, and by OneTrainer's."""
        path = with_wrapper(component, module).replace(".", "_")
        prefix = "lora_transformer" if component == self.denoiser_name else "lora_te1"
        return (*super().lora_names(component, module), f"{prefix}_{path}")

    def readers(self, caption: str) -> Iterator[tuple[str, int, int]]:
        """See Family."""
        yield from super().readers(caption)
        yield "T5", len(self.pipeline.tokenizer_2(caption).input_ids), T5_TOKENS

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family."""
        clip, t5 = self.pipeline.text_encoder, self.pipeline.text_encoder_2
        pooled = clip(tokens(self.pipeline.tokenizer, captions, clip.device)).pooler_output
        ids, _ = language_tokens(self.pipeline.tokenizer_2, captions, T5_TOKENS, t5.device)
        with torch.no_grad():
            # Padding is read too, as the model was trained.
            hidden = t5(ids)[0]
        return {"hidden": hidden.to(pooled.dtype), "pooled": pooled}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See Family: with a guidance of 1, which leaves what is learned as it is."""
        height, width = noisy.shape[-2:]
        transformer = self.pipeline.transformer
        image = places(1, height // self.patch, width // self.patch, device=noisy.device)
        guidance = torch.ones(len(noisy), device=noisy.device) if transformer.config.guidance_embeds else None
        predicted = transformer(
            hidden_states=packed(noisy, self.patch),
            timestep=timesteps / 1000,
            guidance=guidance,
            pooled_projections=text["pooled"],
            encoder_hidden_states=text["hidden"],
            txt_ids=torch.zeros(text["hidden"].shape[1], 3, device=noisy.device),
            img_ids=image,
            return_dict=False,
        )[0]
        return unpacked(predicted, height, width, self.patch)
