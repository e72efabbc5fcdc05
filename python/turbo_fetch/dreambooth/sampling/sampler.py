"""From prompts and seeds to images: a loaded model, a sampler, and one noise generator per image.

Samplers have the names that users know, and are diffusers' schedulers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from PIL import Image

from turbo_fetch.dreambooth.families import DTYPES, Family, Sides, family_of, sides_of
from turbo_fetch.dreambooth.families.embeddings import add_embedding
from turbo_fetch.dreambooth.families.facts import has_zero_terminal_snr, zero_snr_betas
from turbo_fetch.dreambooth.families.lora_files import (
    merge_lycoris,
    read_header,
    read_lora,
    refuse_strange_modules,
    settle_training,
)
from turbo_fetch.dreambooth.families.models import load_model
from turbo_fetch.dreambooth.run_folder import lora_in
from turbo_fetch.errors import Interrupted, ModelError, SpecError
from turbo_fetch.spec.dreambooth import Precision, SamplingTable, Scheduler


@dataclass(frozen=True, slots=True)
class Sampler:
    """A scheduler class of diffusers with the options that make it what it is, and what other programs call it."""

    scheduler: str
    known_as: str
    options: Mapping[str, object] = field(default_factory=dict)


SAMPLERS: Final[Mapping[str, Sampler]] = {
    "ddim": Sampler("DDIMScheduler", "DDIM"),
    "ddpm": Sampler("DDPMScheduler", "DDPM"),
    "pndm": Sampler("PNDMScheduler", "PNDM", {"skip_prk_steps": False}),
    "plms": Sampler("PNDMScheduler", "PLMS", {"skip_prk_steps": True}),
    "lms": Sampler("LMSDiscreteScheduler", "LMS"),
    "euler": Sampler("EulerDiscreteScheduler", "Euler"),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler", "Euler a"),
    "heun": Sampler("HeunDiscreteScheduler", "Heun"),
    "dpm++2m": Sampler("DPMSolverMultistepScheduler", "DPM++ 2M", {"algorithm_type": "dpmsolver++"}),
    "dpm++2m_karras": Sampler(
        "DPMSolverMultistepScheduler",
        "DPM++ 2M Karras",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "unipc": Sampler("UniPCMultistepScheduler", "UniPC"),
}
"""Every sampler of the spec but `auto`."""

_OF_ONE_SAMPLER: Final = ("skip_prk_steps", "algorithm_type", "use_karras_sigmas")
"""Options by which samplers of one class differ, and which must not leak from the model's own into another one."""

_OF_LATENTS: Final[Mapping[str, object]] = {
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""What Stable Diffusion's own scheduler says, for a model whose scheduler does not say it."""


def sampler_name(
    scheduler: Scheduler | None, family: type[Family], key: str = "scheduler", zero_terminal_snr: bool = False
) -> Scheduler:
    """Return the sampler that a spec means for a model of a family; `key` is the spec's.

    Raises SpecError for a sampler that the model cannot have.
    """
    if scheduler is None:
        return family.usual_sampler
    if scheduler != "auto" and family.usual_sampler == "auto":
        raise SpecError(
            f"{key} = {scheduler!r}, but a {family.name} model has a sampler of its own; expected "
            f'{key} = "auto", or none'
        )
    if zero_terminal_snr and scheduler == "dpm++2m_karras":
        # Its first timesteps are all the last of the schedule, from the second of which diffusers would begin.
        raise SpecError(
            f'{key} = {scheduler!r}, but this model begins at pure noise, where it has no steps; expected "dpm++2m"'
        )
    return scheduler


def check_sampling(table: SamplingTable, stage: str, base: str) -> None:
    """Raise SpecError before anything is made if a stage asks what a model, or one trained from it, cannot do."""
    family = family_of(base)
    sampler_name(table.scheduler, family, f"{stage}.scheduler", has_zero_terminal_snr(base))
    family.check_steps(table.steps, f"{stage}.steps")
    family.check_negative(table.negative, f"{stage}.negative")
    given = {"width": table.width, "height": table.height}
    sides = {f"{stage}.{key}": side for key, side in given.items() if side is not None}
    if sides:
        _check_sides(sides, sides_of(base))


def scheduler_for(name: Scheduler | None, family: Family) -> Any:
    """Return the sampler `name` with the settings of the scheduler that a model came with; raises as `sampler_name`."""
    own, zero_terminal_snr = family.pipeline.scheduler, family.facts.zero_terminal_snr
    name = sampler_name(name, type(family), zero_terminal_snr=zero_terminal_snr)
    if name == "auto":
        return type(own).from_config(own.config)
    sampler = SAMPLERS[name]
    scheduler = getattr(diffusers, sampler.scheduler)
    unsaid = {*own.config.get("_use_default_values", ()), *_OF_ONE_SAMPLER, "_use_default_values"}
    settings = {key: value for key, value in own.config.items() if key not in unsaid}
    options = dict(sampler.options)
    rescales = "rescale_betas_zero_snr" in inspect.signature(scheduler.__init__).parameters
    if zero_terminal_snr and not rescales:
        options["trained_betas"] = zero_snr_betas(own)
    return scheduler.from_config({**_OF_LATENTS, **settings}, **options)


def known_as(name: Scheduler | None, family: Family) -> str:
    """Return what other programs call the sampler."""
    name = sampler_name(name, type(family))
    return type(family.pipeline.scheduler).__name__ if name == "auto" else SAMPLERS[name].known_as


def _check_sides(asked: Mapping[str, int], possible: Sides) -> None:
    wrong = [
        f"{key} = {side}, expected {possible.nearest(side)}"
        for key, side in asked.items()
        if possible.nearest(side) != side
    ]
    if wrong:
        most = "" if possible.largest is None else f" up to {possible.largest:,}"
        raise SpecError(
            f"{'; '.join(wrong)}: sides of this model's images are multiples of {possible.multiple} pixels{most}"
        )


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One image to make; `name` is for whoever asks for it."""

    name: str
    prompt: str
    seed: int


def open_model(
    model: str,
    sampling: SamplingTable,
    lora: str | None = None,
    lora_scale: float = 1.0,
    embedding: str | None = None,
) -> Family:
    """Load a model with sampler, LoRA and a file's new word, on the best device there is.

    Raises ModelError, and SpecError for a sampler that does not go with it.
    """
    device = best_device()
    family = load_model(model, _dtype(sampling.precision, device))
    family.tile_vae(sampling.vae_tiling)
    if embedding is not None:
        add_embedding(family, Path(embedding))
    if lora is not None:
        add_lora(family, lora, lora_scale)
    family.pipeline.scheduler = scheduler_for(sampling.scheduler, family)
    family.pipeline.to(device)
    return family


def add_lora(family: Family, lora: str, scale: float) -> None:
    """Put a LoRA in diffusers', kohya's or LyCORIS' naming on a model. Raises ModelError."""
    pipeline = family.pipeline
    path = lora_in(Path(lora)) or Path(lora)
    try:
        if path.is_file():
            settle_training(family, read_header(path))
            if merge_lycoris(family, path, scale):
                return
            converted = read_lora(family, path)
            if converted is None:
                _load_lora(family, str(path.parent), {"weight_name": path.name})
            else:
                pipeline.load_lora_weights(converted, adapter_name="lora")
        else:
            _load_lora(family, lora, {})
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{lora}: cannot be loaded as a LoRA for this model: {reason}; expected a .safetensors file or a "
            "folder in diffusers' or kohya's naming, or a hub id"
        ) from error
    if not pipeline.get_active_adapters():
        raise ModelError(f"{lora}: holds no LoRA weights that fit this model")
    pipeline.set_adapters(["lora"], adapter_weights=[scale])


def _load_lora(family: Family, lora: str, file: Mapping[str, str]) -> None:
    """Put a LoRA on a model as diffusers reads it. Raises ModelError if it would leave out modules."""
    refuse_strange_modules(family, lora, file)
    family.pipeline.load_lora_weights(lora, adapter_name="lora", **file)


def make_images(
    family: Family,
    sampling: SamplingTable,
    requests: Sequence[SampleRequest],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[SampleRequest, Image.Image]]:
    """Yield the images in order, each a function of its prompt and seed only, batch by batch.

    Guidance runs both halves in one forward pass. Raises Interrupted within one denoising step of `stopped`,
    and ModelError when memory runs out, or what comes out is no numbers, which would be saved as black.
    """
    width, height = sampling.width or family.image_side, sampling.height or family.image_side
    _check_sides({"width": width, "height": height}, family.own_sides)
    family.check_steps(sampling.steps)

    def check(pipeline: Any, step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        if stopped():
            raise Interrupted(
                "stopped while making images; the same command resumes with those that are missing"
            )
        if step + 1 == pipeline.num_timesteps and not values["latents"].isfinite().all():
            raise ModelError(
                "the model computes no image but NaN: its weights, or those of its LoRA, are damaged, or too large for "
                'fp16; expected other weights, or precision = "bf16" or "fp32"'
            )
        return values

    for start in range(0, len(requests), sampling.batch_size):
        batch = requests[start : start + sampling.batch_size]
        try:
            made = family.pipeline(
                **family.call_arguments(
                    [request.prompt for request in batch], sampling.guidance, sampling.negative
                ),
                generator=[torch.Generator("cpu").manual_seed(request.seed) for request in batch],
                num_inference_steps=sampling.steps,
                width=width,
                height=height,
                callback_on_step_end=check,
            ).images
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"out of memory with batch_size = {sampling.batch_size} at {width}x{height} pixels; "
                'expected less of either, precision = "fp16", or vae_tiling = true'
            ) from error
        yield from zip(batch, made, strict=True)


def best_device() -> str:
    """Return the device on which images are made."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(precision: Precision, device: str) -> torch.dtype:
    if precision == "auto":
        return torch.float32 if device == "cpu" else torch.float16
    return DTYPES[precision]
