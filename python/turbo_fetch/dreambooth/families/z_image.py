"""Z-Image and Z-Image-Turbo: a Qwen3, a transformer of one stream, flow matching (arXiv 2511.22699)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from turbo_fetch.dreambooth.families.family import Conditioning
from turbo_fetch.dreambooth.families.flow import (
    FlowFamily,
    before_each,
    chats,
    generic_lora_names,
    padded_tokens,
)
from turbo_fetch.dreambooth.families.latent_space import Sides
from turbo_fetch.dreambooth.families.layout import Layout

PROMPT_TOKENS = 512
"""What the pipeline reads of a prompt, with the words around it."""

_ENDS: Final = {
    "all_x_embedder.2-1": "x_embedder",
    "all_final_layer.2-1.linear": "final_layer.linear",
    "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
}
_OF_A_BLOCK: Final = {
    "attention.to_q": "attention.qkv",
    "attention.to_k": "attention.qkv",
    "attention.to_v": "attention.qkv",
    "attention.to_out.0": "attention.out",
    "attention.norm_q": "attention.q_norm",
    "attention.norm_k": "attention.k_norm",
}


class ZImage(FlowFamily):
    """See the module."""

    name = "z-image"
    pipeline_name = "ZImagePipeline"
    text_encoder_names: ClassVar[tuple[str, ...]] = ()
    # As the model's own page has it; Turbo, which nothing in its files tells from it, wants 0.
    guidance = 4.0
    # The modules of Alpha-VLLM/Lumina-Image-2.0, as ComfyUI has them.
    layout = Layout(
        _ENDS, {name: (name, _OF_A_BLOCK) for name in ("layers", "noise_refiner", "context_refiner")}
    )
    marks = ("layers.0.adaLN_modulation.0.weight", "cap_embedder.0.weight")

    @classmethod
    def published(cls, weights: Mapping[str, Tensor]) -> str:
        """See FlowFamily."""
        return "Tongyi-MAI/Z-Image"

    @classmethod
    def sides(cls, denoiser: Mapping[str, Any], vae: Mapping[str, Any]) -> Sides:
        """See Family: as many tokens along a side as there are positions."""
        multiple = super().sides(denoiser, vae).multiple
        return Sides(multiple, multiple * min(denoiser["axes_lens"][1:]))

    def call_arguments(
        self, prompts: list[str], guidance: float | None, negative: str = ""
    ) -> dict[str, Any]:
        """See Family: this pipeline adds guidance for every scale above 0."""
        arguments = super().call_arguments(prompts, guidance, negative)
        scale = arguments["guidance_scale"]
        return arguments | {"guidance_scale": scale if scale > 1 else 0.0}

    def header(self) -> dict[str, str]:
        """See Family: in the words of musubi-tuner."""
        return {
            "modelspec.architecture": "Z-Image",
            "modelspec.implementation": "https://github.com/Tongyi-MAI/Z-Image",
            "ss_base_model_version": "z_image",
            "ss_v2": "False",
        }

    def lora_names(self, component: str, module: str) -> tuple[str, ...]:
        """See Family."""
        return generic_lora_names(component, module)

    def token_count(self, caption: str) -> int:
        """See Family."""
        return len(self.pipeline.tokenizer(self._said([caption])[0]).input_ids)

    def _said(self, captions: Sequence[str]) -> list[str]:
        return chats(self.pipeline.tokenizer, captions, enable_thinking=True)

    def readers(self, caption: str) -> Iterator[tuple[str, int, int]]:
        """See Family."""
        yield "Qwen3", self.token_count(caption), PROMPT_TOKENS

    def encode_captions(self, captions: Sequence[str]) -> Conditioning:
        """See Family: what the last layer but one makes of the captions, as a person says them."""
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        ids, lengths = padded_tokens(tokenizer, self._said(captions), PROMPT_TOKENS, encoder.device)
        seen = before_each(ids.shape[1], ids.device).expand(len(ids), 1, -1, -1)
        with torch.no_grad():
            output = encoder(input_ids=ids, attention_mask=seen, output_hidden_states=True, use_cache=False)
        return {"hidden": output.hidden_states[-2], "lengths": lengths}

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See Family: it is told how much of the way is behind, and predicts the way to the image."""
        lengths = text["lengths"].int().tolist()
        predicted: list[Tensor] = self.pipeline.transformer(
            list(noisy.unsqueeze(2)),
            (1000 - timesteps) / 1000,
            [hidden[:length] for hidden, length in zip(text["hidden"], lengths, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(predicted).squeeze(2)
