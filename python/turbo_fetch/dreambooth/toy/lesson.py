"""One lesson in the toy world: four pictures of a subject, class pictures, training; and what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from turbo_fetch.dreambooth import prior, train
from turbo_fetch.dreambooth.sampling import Shot, make_pictures, open_pipeline
from turbo_fetch.dreambooth.toy.judge import Judge
from turbo_fetch.dreambooth.toy.shapes import BACKGROUNDS, SIDE, SUBJECTS, draw, placed
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec
from turbo_fetch.spec.dreambooth import SamplingTable
from turbo_fetch.stop import StopRequest

PICTURES: Final = 4
"""Pictures of the subject: the paper takes three to five."""
IDENTIFIER: Final = "sks"
SAMPLING: Final = SamplingTable(steps=25, guidance=1.5, batch_size=32)
"""How the pictures are made that are judged. More guidance bends the colours of a subject: purple becomes blue."""
CLASS_GUIDANCE: Final = 1.0
"""Guidance narrows what a model draws. Class pictures are to show the class as the model knows it: made with guidance,
they would teach a narrower one, which is narrowed again whenever the trained model draws with guidance."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned, from what, and how."""

    base: Path
    subject: str
    """One of SUBJECTS."""
    folder: Path
    """Everything of the lesson is kept here."""
    seed: int = 0
    with_prior: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    """Keys of `[train]` that differ from the lesson's own."""

    @property
    def noun(self) -> str:
        """Return the subject's class."""
        return SUBJECTS[self.subject].shape

    @property
    def identifier_prompt(self) -> str:
        """Return the words that mean the subject."""
        return f"a photo of {IDENTIFIER} {self.noun}"

    @property
    def class_prompt(self) -> str:
        """Return the words that mean any of its class."""
        return f"a photo of a {self.noun}"

    @property
    def model(self) -> Path:
        """Return the folder of the trained model."""
        return self.folder / "model"


def spec_of(lesson: Lesson) -> Spec:
    """Return the spec of the lesson: what a user would write."""
    tables: dict[str, Any] = {
        "train": {
            "base": str(lesson.base),
            "subject": str(lesson.folder / "photos"),
            "class": lesson.noun,
            "identifier": IDENTIFIER,
            "resolution": SIDE,
            "steps": 500,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "schedule": {"kind": "cosine"},
            "optimiser": {"weight_decay": 0.0},
            "loss": {"snr_gamma": 5.0},
            "checkpoint_every": 1000,
            "sample_every": 0,
            "seed": lesson.seed,
            "output": str(lesson.model),
        }
        | lesson.options
    }
    if lesson.with_prior:
        tables["prior"] = {
            "images": 200,
            "steps": SAMPLING.steps,
            "guidance": CLASS_GUIDANCE,
            "batch_size": SAMPLING.batch_size,
            "seed": 1000 * (1 + lesson.seed),
        }
    return Spec.model_validate(tables)


def take_photos(lesson: Lesson) -> list[Image.Image]:
    """Draw the subject's pictures into the folder, each before another background, and return them."""
    random = np.random.default_rng(lesson.seed)
    folder = lesson.folder / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for number, background in zip(range(PICTURES), BACKGROUNDS, strict=False):
        figure = replace(placed(SUBJECTS[lesson.subject], random), background=background)
        photo = Image.fromarray((draw(figure) * 255).round().astype(np.uint8))
        photo.save(folder / f"{number}.png")
        photos.append(photo)
    return photos


def learn(lesson: Lesson, listener: ProgressListener, stop: StopRequest) -> None:
    """Run the stages `[prior]` and `[train]` of the lesson; the photos are there. Raises as they do."""
    spec = spec_of(lesson)
    if spec.prior is not None:
        listener.stage("prior")
        prior.run(spec, listener, stop)
    listener.stage("train")
    train.run(spec, listener, stop)


def pictures_of(model: Path, prompt: str, count: int, seed: int = 0) -> list[Image.Image]:
    """Return pictures that a model makes of a prompt, from `count` seeds on."""
    pipeline = open_pipeline(str(model), SAMPLING)
    pipeline.set_progress_bar_config(disable=True)
    shots = [Shot(str(number), prompt, seed + number) for number in range(count)]
    return [picture for _, picture in make_pictures(pipeline, SAMPLING, shots)]


def recognised(judge: Judge, pictures: Sequence[Image.Image], lesson: Lesson) -> float:
    """Return the mean of P(subject | picture)."""
    return float(np.mean(judge.probabilities(pictures, lesson.subject)))
