"""A whole model as one safetensors file in the original Stable Diffusion layout, which ComfyUI, AUTOMATIC1111's web UI
and diffusers' `from_single_file` read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from turbo_fetch.dreambooth.export.layout import (
    original_clip,
    original_open_clip,
    original_unet,
    original_vae,
)
from turbo_fetch.errors import ModelError
from turbo_fetch.storage.disk import sync_one
from turbo_fetch.storage.failures import explained


def save_single_file(
    pipeline: Any, path: Path, metadata: Mapping[str, str], dtype: torch.dtype | None = None
) -> None:
    """Write the pipeline to `path`, whole or not at all, its weights as `dtype` if given.

    Raises ModelError for a family whose layout is not known, and OutputError.
    """
    weights = {name: _stored(weight, dtype) for name, weight in original_weights(pipeline).items()}
    write_safetensors(weights, path, {"format": "pt", "modelspec.sai_model_spec": "1.0.0", **metadata})


def original_weights(pipeline: Any) -> dict[str, Tensor]:
    """Return all weights of a Stable Diffusion or SDXL pipeline under their original names. Raises ModelError."""
    kind = type(pipeline).__name__
    if kind not in {"StableDiffusionPipeline", "StableDiffusionXLPipeline"}:
        raise ModelError(
            f"a {kind} has no single-file layout that is known here; expected Stable Diffusion 1.x, 2.x or XL"
        )
    unet, vae = pipeline.unet, pipeline.vae
    weights = original_unet(unet.state_dict(), int(unet.config.layers_per_block))
    weights |= original_vae(vae.state_dict(), len(vae.config.block_out_channels))
    text = pipeline.text_encoder.state_dict()
    if kind == "StableDiffusionXLPipeline":
        weights |= original_clip(text, "conditioner.embedders.0.transformer.")
        return weights | original_open_clip(
            pipeline.text_encoder_2.state_dict(), "conditioner.embedders.1.model."
        )
    # Stable Diffusion 2 has a text model by open_clip, whose activation is the exact GELU.
    if pipeline.text_encoder.config.hidden_act == "gelu":
        return weights | original_open_clip(text, "cond_stage_model.model.")
    return weights | original_clip(text, "cond_stage_model.transformer.")


def write_safetensors(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Publish a safetensors file: written beside, synced, renamed. Raises OutputError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(dict(weights), temporary, metadata=dict(metadata))
            # safetensors makes files that nobody else may read.
            temporary.chmod(mode)
            sync_one(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _stored(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    kept = dtype is None or not weight.is_floating_point()
    return weight.detach().cpu().contiguous() if kept else weight.detach().to("cpu", dtype).contiguous()
