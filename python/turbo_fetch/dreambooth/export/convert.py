"""From one form of a model to another."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from turbo_fetch.dreambooth.export.folder import save_folder
from turbo_fetch.dreambooth.export.single_file import save_single_file
from turbo_fetch.dreambooth.restored import load_pipeline, weights_of, with_dtype
from turbo_fetch.dreambooth.sampling import DTYPES, add_lora
from turbo_fetch.errors import OutputExists


def convert(
    model: str, target: Path, precision: Literal["fp32", "bf16", "fp16"], lora: str | None, lora_scale: float
) -> None:
    """Write a model, with a LoRA merged into it if given, as one safetensors file or as a diffusers folder.

    Raises ModelError, OutputError, OutputExists if `target` is there already.
    """
    if target.exists():
        raise OutputExists(f"{target} is there already; expected a new name, or that you delete it first")
    pipeline = load_pipeline(model)
    if lora is not None:
        add_lora(pipeline, lora, lora_scale)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    if target.suffix == ".safetensors":
        metadata = {"modelspec.title": target.stem, "turbo_fetch.source_hash": weights_of(model)}
        save_single_file(pipeline, target, metadata, DTYPES[precision])
    else:
        save_folder(with_dtype(pipeline, DTYPES[precision]), target)
