"""Devices and precision: what the spec's `auto` comes to on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

from turbo_fetch.dreambooth.families import Family
from turbo_fetch.dreambooth.learners import Learners
from turbo_fetch.errors import SpecError, TrainingFailed
from turbo_fetch.spec.train import TrainSpec

LIGHTNING_PRECISION: Final = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_EXPORTED_WHOLE: Final = frozenset({"unet", "transformer", "text_encoder", "text_encoder_2"})
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(train: TrainSpec) -> torch.device:
    """Return the device of this process. Raises SpecError if there is none of the kind."""
    kind = train.accelerator
    if kind in {"auto", "gpu"} and torch.cuda.is_available():
        if train.devices > torch.cuda.device_count():
            raise SpecError(
                f"train.devices = {train.devices}: this machine has {torch.cuda.device_count()} GPU(s)"
            )
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if kind in {"auto", "mps"} and torch.backends.mps.is_available():
        return torch.device("mps")
    if kind in {"auto", "cpu"}:
        return torch.device("cpu")
    raise SpecError(f'train.accelerator = "{kind}": this machine has none; expected "auto" or "cpu"')


def precision_of(train: TrainSpec, device: torch.device) -> str:
    """Return fp32, bf16 or fp16. Raises SpecError if the device cannot do what is asked for."""
    if train.precision == "fp16" and device.type == "cpu":
        raise SpecError(
            'train.precision = "fp16" does not run on processors; expected "auto", "fp32" or "bf16"'
        )
    if train.precision != "auto":
        return train.precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def place(family: Family, device: torch.device, precision: str, train: TrainSpec) -> None:
    """Move the model to the device; with LoRA, what does not learn is in half precision where that is asked for.

    In other methods the whole model is exported, so that weights that do not learn must stay as they are; but a T5
    is rounded, as it fits few devices otherwise. The VAE stays in fp32, in which alone that of SDXL is right.
    """
    for name, module in family.modules():
        if name != "vae" and (train.method == "lora" or name not in _EXPORTED_WHOLE):
            _shrink(module, _DTYPES[precision])
        module.to(device)
    if device.type == "cuda":
        denoiser: nn.Module = family.denoiser
        denoiser.to(memory_format=torch.channels_last)


def put_aside(family: Family, learners: Learners) -> None:
    """Move what works no more to main memory: the VAE, and text encoders if none learns, once all is cached."""
    for name, module in family.modules():
        if name == "vae" or ("text_encoder" in name and not learners.text):
            module.to("cpu")


def _shrink(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.parameters():
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


@contextmanager
def memory_explained(train: TrainSpec) -> Iterator[None]:
    """Turn a lack of memory into a TrainingFailed that says what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(train, error) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise _out_of_memory(train, error) from error


def _out_of_memory(train: TrainSpec, error: BaseException) -> TrainingFailed:
    advice: list[tuple[Any, str]] = [
        (train.batch_size > 1, f"batch_size = 1 with accumulation = {train.batch_size * train.accumulation}"),
        (not train.gradient_checkpointing, "gradient_checkpointing = true"),
        (train.optimiser.kind == "adamw", 'optimiser.kind = "adamw8bit"'),
        (train.trains("full"), 'method = "lora"'),
        (train.trains_text_encoder, "text_encoder = false"),
        (True, f"a resolution below {train.resolution}"),
    ]
    options = ", ".join(text for applies, text in advice if applies)
    return TrainingFailed(
        f"out of memory ({str(error).strip().partition(chr(10))[0]}); the last checkpoint is good. "
        f"In [train], in this order: {options}"
    )
