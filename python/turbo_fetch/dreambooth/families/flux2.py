"""Flux.2 Klein: a Qwen3 that is read at three depths, a transformer, latents in the scale of a batch normalisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from turbo_fetch.dreambooth.families.family import Conditioning
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
from turbo_fetch.dreambooth.families.flux import OF_TWO_STREAMS
from turbo_fetch.dreambooth.families.latent_space import Posterior
from turbo_fetch.dreambooth.families.layout import Layout
from turbo_fetch.errors import ModelError

QWEN_TOKENS = 512
"""As many as the pipeline of diffusers reads."""
QWEN_LAYERS = (9, 18, 27)
"""After which layers the text is read."""
USUAL_STEPS = 50
"""Of sampling: the noise levels of an image depend on it, and training is for those of as many."""

_ENDS: Final = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
    "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_OF_TWO_STREAMS: Final = {
    **OF_TWO_STREAMS,
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
_OF_ONE_STREAM: Final = {
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out": "linear2",
    "attn.norm_q": "norm.query_norm.scale",
    "attn.norm_k": "norm.key_norm.scale",
}


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
    # The modules of black-forest-labs/flux2.
    layout = Layout(
        _ENDS,
        {
            "transformer_blocks": ("double_blocks", _OF_TWO_STREAMS),
            "single_transformer_blocks": ("single_blocks", _OF_ONE_STREAM),
        },
        swapped=frozenset({"norm_out.linear"}),
    )
    marks = ("double_blocks.0.img_attn.qkv.weight", "single_stream_modulation.lin.weight")

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> str:
        """See FlowFamily: the larger of the two models is the wider one. Raises ModelError for `dev`."""
        if "guidance_in.in_layer.weight" in weights:
            raise ModelError("Flux.2 dev, of no known family; expected Flux.2 Klein")
        return f"black-forest-labs/FLUX.2-klein-{_size(len(weights['img_in.weight']))}"

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
        """See Family: in the words of musubi-tuner."""
        config = self.pipeline.transformer.config
        size = _size(config.num_attention_heads * config.attention_head_dim).lower()
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

    def readers(self, caption: str) -> Iterator[tuple[str, int, int]]:
        """See Family."""
        (said,) = chats(self.pipeline.tokenizer, [caption], enable_thinking=False)
        yield "Qwen3", len(self.pipeline.tokenizer(said).input_ids), QWEN_TOKENS

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


def _size(width: int) -> str:
    """Return which of the two published models has a transformer of this width."""
    return "4B" if width <= 3072 else "9B"
