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

from turbo_fetch.dreambooth.families import DTYPES, Family, Sides, sides_of
from turbo_fetch.dreambooth.families.models import load_model
from turbo_fetch.errors import Interrupted, ModelError, SpecError
from turbo_fetch.spec import Spec
from turbo_fetch.spec.dreambooth import Precision, SamplingTable, Scheduler


@dataclass(frozen=True, slots=True)
class Sampler:
    """A scheduler class of diffusers with its options, and what other programs call it."""

    scheduler: str
    known_as: str
    options: Mapping[str, object] = field(default_factory=dict)


SAMPLERS: Final[Mapping[str, Sampler]] = {
    "ddim": Sampler(
        "DDIMScheduler", "DDIM", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    ),
    "ddpm": Sampler("DDPMScheduler", "DDPM", {"clip_sample": False}),
    "pndm": Sampler("PNDMScheduler", "PNDM", {"skip_prk_steps": False}),
    "plms": Sampler("PNDMScheduler", "PLMS", {"skip_prk_steps": True, "steps_offset": 1}),
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

_OF_SAMPLERS: Final = frozenset(
    {
        "clip_sample",
        "set_alpha_to_one",
        "steps_offset",
        "skip_prk_steps",
        "algorithm_type",
        "use_karras_sigmas",
    }
)
"""Options that belong to one sampler and must not leak from the model's own scheduler into another one."""


def scheduler_for(name: Scheduler, family: Family) -> Any:
    """Return the sampler `name` with the noise schedule of the scheduler that a model came with.

    Raises SpecError for a model whose noise only its own scheduler knows.
    """
    own = family.pipeline.scheduler
    if name == "auto":
        return type(own).from_config(own.config)
    if not family.any_sampler:
        raise SpecError(
            f"scheduler = {name!r}, but a {family.name} model has a sampler of its own ({type(own).__name__}); "
            'expected scheduler = "auto"'
        )
    sampler = SAMPLERS[name]
    scheduler = getattr(diffusers, sampler.scheduler)
    accepted = inspect.signature(scheduler.__init__).parameters.keys() - _OF_SAMPLERS
    shared = {key: value for key, value in own.config.items() if key in accepted}
    return scheduler.from_config({**shared, **sampler.options})


def known_as(name: Scheduler, own: Any) -> str:
    """Return what other programs call the sampler."""
    return type(own).__name__ if name == "auto" else SAMPLERS[name].known_as


def check_sizes(spec: Spec, base: str) -> None:
    """Raise SpecError before anything is made or trained if a stage asks for images that the base cannot make."""
    tables = {
        "prior": spec.prior if spec.prior and spec.prior.source == "generate" else None,
        "generate": spec.generate if spec.generate and spec.generate.model is None else None,
        "evaluate": spec.evaluate if spec.evaluate and not spec.evaluate.models else None,
    }
    asked = {
        f"{stage}.{key}": side
        for stage, table in tables.items()
        for key in ("width", "height")
        if table is not None and (side := getattr(table, key)) is not None
    }
    if asked:
        _check_sides(asked, sides_of(base))


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
    model: str, sampling: SamplingTable, lora: str | None = None, lora_scale: float = 1.0
) -> Family:
    """Load a diffusers folder, hub id or checkpoint of a run with sampler and LoRA, on the best device there is.

    Raises ModelError, and SpecError for a sampler that does not go with it.
    """
    device = best_device()
    family = load_model(model, _dtype(sampling.precision, device))
    family.pipeline.scheduler = scheduler_for(sampling.scheduler, family)
    family.pipeline.to(device)
    if lora is not None:
        add_lora(family, lora, lora_scale)
    return family


def add_lora(family: Family, lora: str, scale: float) -> None:
    """Put a LoRA in diffusers' or kohya's naming on a model. Raises ModelError."""
    path, pipeline = Path(lora), family.pipeline
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


def make_images(
    family: Family,
    sampling: SamplingTable,
    requests: Sequence[SampleRequest],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[SampleRequest, Image.Image]]:
    """Yield the images in order, each a function of its prompt and seed only, batch by batch.

    Guidance runs both halves in one forward pass. Raises Interrupted within one denoising step of `stopped`,
    and ModelError when memory runs out.
    """
    width, height = sampling.width or family.image_side, sampling.height or family.image_side
    _check_sides({"width": width, "height": height}, family.own_sides)

    def check(_pipeline: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
        if stopped():
            raise Interrupted(
                "stopped while making images; the same command resumes with those that are missing"
            )
        return values

    for start in range(0, len(requests), sampling.batch_size):
        batch = requests[start : start + sampling.batch_size]
        try:
            made = family.pipeline(
                prompt=family.whole_prompts([request.prompt for request in batch]),
                negative_prompt=[sampling.negative] * len(batch),
                generator=[torch.Generator("cpu").manual_seed(request.seed) for request in batch],
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
    """Return the device on which images are made."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(precision: Precision, device: str) -> torch.dtype:
    if precision == "auto":
        return torch.float32 if device == "cpu" else torch.float16
    return DTYPES[precision]
