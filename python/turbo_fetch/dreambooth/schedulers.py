"""Samplers by the names that users know, on diffusers' schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import diffusers

from turbo_fetch.errors import SpecError
from turbo_fetch.spec.dreambooth import Scheduler


@dataclass(frozen=True, slots=True)
class Sampler:
    """A scheduler class of diffusers with its options, and what other programs call it."""

    kind: str
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


def scheduler_for(name: Scheduler, own: Any) -> Any:
    """Return the sampler `name` with the noise schedule of `own`, the scheduler that a model came with.

    Raises SpecError for a flow-matching model, whose noise only its own scheduler knows.
    """
    if name == "auto":
        return type(own).from_config(own.config)
    if "flow" in type(own).__name__.lower():
        raise SpecError(
            f"scheduler = {name!r}, but the model learned by flow matching ({type(own).__name__}); "
            'expected scheduler = "auto"'
        )
    sampler = SAMPLERS[name]
    kind = getattr(diffusers, sampler.kind)
    accepted = inspect.signature(kind.__init__).parameters.keys() - _OF_SAMPLERS
    shared = {key: value for key, value in own.config.items() if key in accepted}
    return kind.from_config({**shared, **sampler.options})


def known_as(name: Scheduler, own: Any) -> str:
    """Return what other programs call the sampler."""
    return type(own).__name__ if name == "auto" else SAMPLERS[name].known_as
