"""`[prior]`, `[train]`, `[generate]`, `[evaluate]`: from a few pictures to a personalised model and its scores."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

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


class TrainSpec(Table):
    """`[train]`: from a few pictures of a subject to a model that knows it."""

    base: str
    """The model to begin with: a diffusers folder or a hub id."""
    subject: str
    """Pictures of the subject: a folder, a dataset, or `fetch` for what the fetch stage made."""
    class_: Annotated[str, Field(alias="class")]
    """Noun of the subject's class: `dog`."""
    identifier: str = "sks"
    """Rare word that will mean the subject."""
    prompt: str = "a photo of {identifier} {class}"
    """Caption of pictures that have none."""
    steps: PositiveInt = 800
    """Optimiser steps."""
    learning_rate: PositiveFloat = 1e-6
    """Learning rate of the optimiser."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random."""
    output: str = "model"
    """Folder of checkpoints and of the trained model."""


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
