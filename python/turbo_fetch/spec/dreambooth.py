"""`[prior]` and `[generate]`: what comes before and after training (`train.py`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from turbo_fetch.spec.table import Table

Scheduler = Literal[
    "auto",
    "ddim",
    "ddpm",
    "pndm",
    "plms",
    "lms",
    "euler",
    "euler_a",
    "heun",
    "dpm++2m",
    "dpm++2m_karras",
    "unipc",
]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Prompt = Annotated[str, Field(min_length=1)]


class SamplingTable(Table):
    """How pictures are made from noise; part of `[prior]` and `[generate]`."""

    scheduler: Scheduler = "ddim"
    """Sampler; `auto` is the one that came with the model, which flow-matching models need."""
    steps: PositiveInt = 50
    """Denoising steps per picture."""
    guidance: NonNegativeFloat = 7.5
    """Classifier-free guidance scale; 1 or less turns it off."""
    negative: str = ""
    """What the pictures do not show; works through the guidance."""
    seed: NonNegativeInt = 0
    """Seed of the first picture; each one has a seed of its own, whatever the batch."""
    width: PositiveInt | None = None
    """Pixels; by default what the model was made for."""
    height: PositiveInt | None = None
    """Pixels; by default what the model was made for."""
    batch_size: PositiveInt = 4
    """Pictures that are made at once; more are faster and need more memory."""
    precision: Precision = "auto"
    """Of the arithmetic; `auto`: fp16 on a GPU, fp32 on a processor."""

    @field_validator("width", "height")
    @classmethod
    def _whole_latents(cls, side: int | None) -> int | None:
        if side is not None and side % 8:
            raise ValueError(f"{side} pixels; expected a multiple of 8")
        return side


class PriorSpec(SamplingTable):
    """`[prior]`: pictures of the subject's class, which keep the model from forgetting it."""

    images: PositiveInt = 200
    """How many."""
    prompt: Prompt = "a photo of a {class}"
    """What they show; `{class}` is `train.class`."""
    source: Prompt = "generate"
    """`generate`: by the base model; or a folder or dataset of pictures that are there already."""
    output: str | None = None
    """Folder of the generated pictures; by default `train.output` with `-class` at the end."""


class GenerateSpec(SamplingTable):
    """`[generate]`: from prompts to pictures."""

    model: str | None = None
    """A diffusers folder or hub id; by default what this spec trains."""
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)] | Prompt
    """What the pictures show, or a text file with one prompt per line. `{identifier}` and `{class}` are
    those of `[train]`."""
    images: PositiveInt = 4
    """Pictures per prompt."""
    fixed_code: bool = False
    """Start every prompt from the same noise, so that only the words make a difference."""
    grid: bool = True
    """Also lay all pictures out on `grid.png`, one line per prompt."""
    lora: str | None = None
    """A LoRA to put on the model: a file or folder in diffusers' or kohya's naming, or a hub id."""
    lora_scale: NonNegativeFloat = 1.0
    """How strong the LoRA is."""
    output: str = "pictures"
    """Folder of the pictures, on disk or at any fsspec URL."""
