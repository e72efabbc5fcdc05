"""Flux.2: a language model that is read at three depths, a transformer, latents in the scale of a batch normalisation.

That of Klein is a Qwen3, that of dev a Mistral, which is told how it is to think of images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
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

TOKENS = 512
"""As many as the pipelines of diffusers read."""
USUAL_STEPS = 50
"""Of sampling: the noise levels of an image depend on it, and training is for those of as many."""

_ENDS: Final = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
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


class Flux2(FlowFamily):
    """What both models have in common."""

    reader: ClassVar[str]
    """What reads the prompts."""
    read_layers: ClassVar[tuple[int, ...]]
    """After which of its layers they are read."""
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
    marks: ClassVar[tuple[str, ...]] = (
        "double_blocks.0.img_attn.qkv.weight",
        "single_stream_modulation.lin.weight",
    )

    @abstractmethod
    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return ids and attention mask [B, TOKENS] of captions as the language model is told them."""

    @abstractmethod
    def count(self, caption: str) -> int:
        """Return how many tokens a caption has, with all that is said around it."""

    def shift_exponent(self, tokens: int) -> float:
        """See FlowFamily: as the model's authors measured it."""
        return float(compute_empirical_mu(tokens, USUAL_STEPS))

    def call_arguments(
        self, prompts: list[str], guidance: float | None, negative: str = ""
    ) -> dict[str, Any]:
        """See Family: its pipelines take no negative prompt, be it empty."""
        arguments = super().call_arguments(prompts, guidance, negative)
        del arguments["negative_prompt"]
        return arguments

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
        yield self.reader, self.count(caption), TOKENS

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family."""
        encoder = self.pipeline.text_encoder
        ids, mask = (each.to(encoder.device) for each in self.tokens(captions))
        seen = mask.bool()[:, None, None, :] & before_each(TOKENS, ids.device)
        with torch.no_grad():
            states = encoder(
                input_ids=ids, attention_mask=seen, output_hidden_states=True, use_cache=False
            ).hidden_states
        return {"hidden": torch.cat([states[layer] for layer in self.read_layers], dim=-1)}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See Family: with a guidance of 1 where it is told one, which leaves what is learned as it is."""
        height, width = noisy.shape[-2:]
        hidden, transformer = text["hidden"], self.pipeline.transformer
        is_told = transformer.config.guidance_embeds
        predicted = transformer(
            hidden_states=packed(noisy, self.patch),
            timestep=timesteps / 1000,
            guidance=torch.ones(len(noisy), device=noisy.device) if is_told else None,
            encoder_hidden_states=hidden,
            txt_ids=places(1, 1, 1, hidden.shape[1], device=noisy.device),
            img_ids=places(1, height // self.patch, width // self.patch, 1, device=noisy.device),
            return_dict=False,
        )[0]
        return unpacked(predicted, height, width, self.patch)


class Flux2Klein(Flux2):
    """Flux.2 Klein, which is guided away from the empty prompt."""

    name = "flux2"
    pipeline_name = "Flux2KleinPipeline"
    reader = "Qwen3"
    read_layers = (9, 18, 27)

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> str:
        """See FlowFamily: the larger of the two models is the wider one."""
        return f"black-forest-labs/FLUX.2-klein-{_size(len(weights['img_in.weight']))}"

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

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See Flux2."""
        texts = chats(self.pipeline.tokenizer, captions, enable_thinking=False)
        return language_tokens(self.pipeline.tokenizer, texts, TOKENS, "cpu")

    def count(self, caption: str) -> int:
        """See Flux2."""
        (said,) = chats(self.pipeline.tokenizer, [caption], enable_thinking=False)
        return len(self.pipeline.tokenizer(said).input_ids)


class Flux2Dev(Flux2):
    """Flux.2 dev, which is told how strongly it is guided."""

    name = "flux2-dev"
    pipeline_name = "Flux2Pipeline"
    reader = "Mistral"
    read_layers = (10, 20, 30)
    marks = (*Flux2.marks, "guidance_in.in_layer.weight")

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> str:
        """See FlowFamily."""
        return "black-forest-labs/FLUX.2-dev"

    @property
    def prompt_tokenizer(self) -> Any:
        """See Family: one beside what prepares images, which it could read as well."""
        return self.pipeline.tokenizer.tokenizer

    def header(self) -> dict[str, str]:
        """See Family: in the words of musubi-tuner."""
        return {
            "modelspec.architecture": "Flux.2-dev",
            "modelspec.implementation": "https://github.com/black-forest-labs/flux2",
            "ss_base_model_version": "flux_2_dev",
            "ss_v2": "False",
        }

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See Flux2."""
        made = self._chat(captions, padding="max_length", truncation=True, max_length=TOKENS)
        return made["input_ids"], made["attention_mask"]

    def count(self, caption: str) -> int:
        """See Flux2."""
        return int(self._chat([caption])["input_ids"].shape[1])

    def _chat(self, captions: Sequence[str], **options: Any) -> Mapping[str, Tensor]:
        pipeline = self.pipeline
        chat = format_input(list(captions), system_message=pipeline.system_message)
        made: Mapping[str, Tensor] = pipeline.tokenizer.apply_chat_template(
            chat, tokenize=True, return_dict=True, return_tensors="pt", **options
        )
        return made


def _size(width: int) -> str:
    """Return which of the two published models has a transformer of this width."""
    return "4B" if width <= 3072 else "9B"
