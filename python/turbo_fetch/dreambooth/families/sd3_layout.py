"""The names that weights of Stable Diffusion 3 have in single files, from those that diffusers gives them.

Source: the modules of Stability-AI/sd3.5, whose attribute paths these names are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor

from turbo_fetch.dreambooth.families.sd import UNET

_ENDS: Final = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
_OF_A_BLOCK: Final = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
_FUSED: Final = {
    "attn.to_q": ("attn.to_k", "attn.to_v", "x_block.attn.qkv"),
    "attn.add_q_proj": ("attn.add_k_proj", "attn.add_v_proj", "context_block.attn.qkv"),
    "attn2.to_q": ("attn2.to_k", "attn2.to_v", "x_block.attn2.qkv"),
}
"""Query, with its key, its value, and the one matrix that holds the three."""
_PARTS_OF_FUSED: Final = {part for key, value, _ in _FUSED.values() for part in (key, value)}


def original_transformer(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a transformer's weights under their original names."""
    return {UNET + name: weight for name, weight in _original(weights)}


def _original(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    for name, weight in weights.items():
        if name == "pos_embed.pos_embed":
            yield "pos_embed", weight
            continue
        module, _, kind = name.rpartition(".")
        block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
        if block is None:
            yield f"{_ENDS[module]}.{kind}", _swapped(weight) if module == "norm_out.linear" else weight
        elif block[2] in _FUSED:
            key, value, fused = _FUSED[block[2]]
            parts = [
                weights[f"transformer_blocks.{block[1]}.{part}.{kind}"] for part in (block[2], key, value)
            ]
            yield f"joint_blocks.{block[1]}.{fused}.{kind}", torch.cat(parts)
        elif block[2] not in _PARTS_OF_FUSED:
            # The last block ends its context with the norm of an output.
            is_end = block[2] == "norm1_context.linear" and int(block[1]) == last
            yield (
                f"joint_blocks.{block[1]}.{_OF_A_BLOCK[block[2]]}.{kind}",
                _swapped(weight) if is_end else weight,
            )


def _swapped(weight: Tensor) -> Tensor:
    """Return shift and scale of an output's norm in the other order, as diffusers has them the other way round."""
    scale, shift = weight.chunk(2)
    return torch.cat([shift, scale])
