"""From prompts and seeds to pictures: a loaded model, a sampler, and one noise generator per picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from PIL import Image

from turbo_fetch.dreambooth.learners import in_full
from turbo_fetch.dreambooth.restored import load_pipeline
from turbo_fetch.dreambooth.schedulers import scheduler_for
from turbo_fetch.errors import Interrupted, ModelError
from turbo_fetch.spec.dreambooth import Precision, SamplingTable

DTYPES: Final[Mapping[Literal["fp32", "bf16", "fp16"], torch.dtype]] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture to make; `name` is for whoever asks for it."""

    name: str
    prompt: str
    seed: int


def open_pipeline(model: str, sampling: SamplingTable) -> Any:
    """Load a diffusers folder, hub id or checkpoint of a run with its sampler, on the best device there is.

    Raises ModelError, and SpecError for a sampler that does not go with it.
    """
    device = best_device()
    pipeline = load_pipeline(model, _dtype(sampling.precision, device))
    pipeline.scheduler = scheduler_for(sampling.scheduler, pipeline.scheduler)
    return pipeline.to(device)


def add_lora(pipeline: Any, lora: str, scale: float) -> None:
    """Put a LoRA in diffusers' or kohya's naming on the pipeline. Raises ModelError."""
    path = Path(lora)
    try:
        if path.is_file():
            pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name="lora")
        else:
            pipeline.load_lora_weights(lora, adapter_name="lora")
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{lora}: cannot be loaded as a LoRA for this model: {reason}; expected a .safetensors file or a "
            "folder in diffusers' or kohya's naming, or a hub id"
        ) from error
    if not pipeline.get_active_adapters():
        raise ModelError(f"{lora}: holds no LoRA weights that fit this model")
    pipeline.set_adapters(["lora"], adapter_weights=[scale])


def picture_size(pipeline: Any, sampling: SamplingTable) -> tuple[int, int]:
    """Return width and height in pixels of what the pipeline will make."""
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    own = int(denoiser.config.sample_size) * int(pipeline.vae_scale_factor)
    return sampling.width or own, sampling.height or own


def make_pictures(
    pipeline: Any, sampling: SamplingTable, shots: Sequence[Shot], stopped: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Shot, Image.Image]]:
    """Yield the pictures in order, each a function of its prompt and seed only, batch by batch.

    Guidance runs both halves in one forward pass. Raises Interrupted within one denoising step of `stopped`,
    and ModelError when memory runs out.
    """
    width, height = picture_size(pipeline, sampling)

    def check(_pipeline: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        if stopped():
            raise Interrupted(
                "stopped while making pictures; the same command goes on with those that are missing"
            )
        return values

    for start in range(0, len(shots), sampling.batch_size):
        batch = shots[start : start + sampling.batch_size]
        try:
            made = pipeline(
                prompt=in_full(pipeline, [shot.prompt for shot in batch]),
                negative_prompt=[sampling.negative] * len(batch),
                generator=[torch.Generator("cpu").manual_seed(shot.seed) for shot in batch],
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                width=width,
                height=height,
                callback_on_step_end=check,
            ).images
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"out of memory with batch_size = {sampling.batch_size} at {width}x{height} pixels; "
                'expected less of either, or precision = "fp16"'
            ) from error
        yield from zip(batch, made, strict=True)


def best_device() -> str:
    """Return the device on which pictures are made."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(precision: Precision, device: str) -> torch.dtype:
    if precision == "auto":
        return torch.float32 if device == "cpu" else torch.float16
    return DTYPES[precision]
