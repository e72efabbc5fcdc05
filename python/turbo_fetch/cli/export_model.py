"""`turbo-fetch export-model`: a model in the form that another program reads."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer


class Precision(StrEnum):
    """Data type of the stored weights."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"


def export_model(
    model: Annotated[
        str, typer.Argument(help="A diffusers folder or hub id, such as the output of [train].")
    ],
    target: Annotated[
        Path,
        typer.Argument(help="`name.safetensors`: one file, original layout; otherwise a diffusers folder."),
    ],
    lora: Annotated[
        Optional[str],  # noqa: UP045 - typer reads it at run time
        typer.Option("--lora", help="A LoRA to merge into the model: a file, folder or hub id."),
    ] = None,
    lora_scale: Annotated[float, typer.Option("--lora-scale", help="Scale of the LoRA.")] = 1.0,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Data type of the stored weights.")
    ] = Precision.FP16,
) -> None:
    """Write MODEL for another program.

    ComfyUI and the web UIs read one `.safetensors` file; diffusers reads a folder. [train] already writes a LoRA in
    both namings: `pytorch_lora_weights.safetensors` for diffusers, `kohya_lora.safetensors` for ComfyUI and the web
    UIs.
    """
    from turbo_fetch.errors import MissingExtra

    try:
        from turbo_fetch.dreambooth.export.model import convert
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("turbo_fetch"):
            raise
        raise MissingExtra(error.name, "train", "export") from error
    convert(model, target, precision.value, lora, lora_scale)
    typer.echo(f"exported  {target}")
