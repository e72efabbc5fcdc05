"""`[prior]`, `[generate]`, `[evaluate]`: what comes before and after training (`train.py`)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from turbo_fetch.spec.table import Table

Scheduler = Literal["ddim", "pndm", "euler", "dpm++2m"]


class PriorSpec(Table):
    """`[prior]`: pictures of the subject's class, which keep the model from forgetting it."""

    images: PositiveInt = 200
    """How many."""
    prompt: str = "a photo of a {class}"
    """What they show; `{class}` is `train.class`."""
    source: str = "generate"
    """`generate`: by the base model; or a folder or dataset of pictures that are there already."""
    scheduler: Scheduler = "ddim"
    """Sampler of the generated pictures."""
    steps: PositiveInt = 50
    """Denoising steps per picture."""
    guidance: NonNegativeFloat = 7.5
    """Classifier-free guidance scale; 1 or less turns it off."""
    seed: int = Field(default=0, ge=0)
    """Seed of the first picture; each one has a seed of its own."""


class GenerateSpec(Table):
    """`[generate]`: from prompts to pictures."""

    model: str | None = None
    """A diffusers folder or hub id; by default what this spec trains."""
    prompts: tuple[str, ...]
    """What the pictures show."""
    images: PositiveInt = 4
    """Pictures per prompt."""
    scheduler: Scheduler = "ddim"
    """Sampler."""
    steps: PositiveInt = 50
    """Denoising steps per picture."""
    guidance: NonNegativeFloat = 7.5
    """Classifier-free guidance scale; 1 or less turns it off."""
    negative: str = ""
    """What the pictures do not show."""
    seed: int = Field(default=0, ge=0)
    """Seed of the first picture; each one has a seed of its own."""
    output: str = "pictures"
    """Folder of the pictures."""


class EvaluateSpec(Table):
    """`[evaluate]`: from pictures to scores."""

    prompts: str | tuple[str, ...] = "paper"
    """`paper`: the DreamBooth paper's 25; or prompts, or a file with one per line."""
    output: str = "scores"
    """Folder of scores and report."""
