"""The demonstration: a base, a subject that it has never seen, training, and the images before and after.

A lesson is one training in the toy world: four images of a subject, maybe class images, and what was learned.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import tomli_w
from PIL import Image

from turbo_fetch.dreambooth.data.images import grid
from turbo_fetch.dreambooth.run_folder import MODEL_INDEX
from turbo_fetch.dreambooth.sampling import prior
from turbo_fetch.dreambooth.sampling.sampler import SampleRequest, make_images, open_model
from turbo_fetch.dreambooth.toy.base import Recipe, recipe_text, train_base
from turbo_fetch.dreambooth.toy.judge import Judge
from turbo_fetch.dreambooth.toy.shapes import BACKGROUNDS, SIDE, SUBJECTS, draw, placed
from turbo_fetch.dreambooth.training import launch
from turbo_fetch.errors import Interrupted
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.spec import Spec
from turbo_fetch.spec.dreambooth import SamplingTable
from turbo_fetch.spec.specfile import parse_spec, rooted
from turbo_fetch.stop import StopRequest
from turbo_fetch.storage.failures import explained

SHEET: Final = "sheet.png"
SPEC: Final = "spec.toml"
JUDGED: Final = 32
"""Images per prompt that are judged."""
SHOWN: Final = 10
"""Of them, those on the sheet."""
SIDE_SHOWN: Final = 80
IMAGES: Final = 4
"""Images of the subject: the paper takes three to five."""
IDENTIFIER: Final = "sks"
SAMPLING: Final = SamplingTable(steps=25, guidance=1.5, batch_size=32)
"""How the images are made that are judged. More guidance bends the colours of a subject: purple becomes blue."""
CLASS_GUIDANCE: Final = 1.0
"""Guidance narrows what a model draws. Class images are to show the class as the model knows it: made with guidance,
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
    """Return the spec of the lesson."""
    return parse_spec(rooted(tables_of(lesson), lesson.folder))


def tables_of(lesson: Lesson) -> dict[str, Any]:
    """Return the spec of the lesson as a user would write it, who puts it into its folder."""
    tables: dict[str, Any] = {
        "train": {
            "base": str(lesson.base.absolute()),
            "subject": "photos",
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
            "output": lesson.model.name,
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
    return tables


def write_spec(lesson: Lesson) -> Path:
    """Write a spec that does what was done, and makes images of it, for whoever wants to go on from there."""
    generate = {
        "prompts": ["a photo of {identifier} {class}", "a photo of a {class}"],
        "images": SHOWN,
        "steps": SAMPLING.steps,
        "guidance": SAMPLING.guidance,
        "batch_size": SAMPLING.batch_size,
        "output": "images",
    }
    path = lesson.folder / SPEC
    with explained(str(path)):
        text = tomli_w.dumps({**tables_of(lesson), "generate": generate})
        path.write_text(
            f"# turbo-fetch run {SPEC}\n# Change it as you like; for another run take another train.output.\n\n{text}"
        )
    return path


def take_photos(lesson: Lesson) -> list[Image.Image]:
    """Draw the subject's images into the folder, each before another background, and return them."""
    random = np.random.default_rng(lesson.seed)
    folder = lesson.folder / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for number, background in zip(range(IMAGES), BACKGROUNDS, strict=False):
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
    launch.run(spec, listener, stop)


def images_of(
    model: Path, prompt: str, count: int, seed: int = 0, stopped: Callable[[], bool] = lambda: False
) -> list[Image.Image]:
    """Return images that a model makes of a prompt, from `count` seeds on. Raises Interrupted if it is stopped."""
    family = open_model(str(model), SAMPLING)
    requests = [SampleRequest(str(number), prompt, seed + number) for number in range(count)]
    return [image for _, image in make_images(family, SAMPLING, requests, stopped)]


def recognised(judge: Judge, images: Sequence[Image.Image], lesson: Lesson) -> float:
    """Return the mean of P(subject | image)."""
    return float(np.mean(judge.probabilities(images, lesson.subject)))


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the judge says: means of P(subject | image)."""

    sheet: Path
    spec: Path
    identifier: str
    class_: str
    known_before: float
    known: float
    drift: float
    drift_without_prior: float

    def text(self) -> str:
        """Return the report as lines for a person."""
        return "\n".join(
            (
                "How surely a judge sees the subject, 0 to 1:",
                f"  {self.identifier!r}, before training: {self.known_before:.2f}",
                f"  {self.identifier!r}, after training: {self.known:.2f}",
                f"  {self.class_!r}, after training: {self.drift:.2f}",
                f"  {self.class_!r}, trained without class images: {self.drift_without_prior:.2f}",
                f"images    {self.sheet}",
                f"spec      {self.spec}: edit it, and run it with turbo-fetch run",
            )
        )


def base_in(cache: Path, recipe: Recipe, listener: ProgressListener, stop: StopRequest) -> Path:
    """Return the folder of the toy base, which is trained first if the cache has none of this recipe.

    Raises MissingExtra, OutputError, or Interrupted, after which it starts over.
    """
    folder = cache / f"toy-base-{hashlib.sha256(recipe_text(recipe).encode()).hexdigest()[:12]}"
    if (folder / MODEL_INDEX).is_file():
        return folder
    listener.stage("base")

    def progress(_phase: str, done: int, total: int) -> None:
        if stop:
            raise Interrupted("stopped while training the toy base, which starts over next time")
        listener.step(done, total, "steps", {})
        listener.refresh()

    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    with explained(str(folder)):
        partial.mkdir(parents=True, exist_ok=True)
        train_base(partial, recipe, progress)
        partial.rename(folder)
    return folder


def run(lesson: Lesson, listener: ProgressListener, stop: StopRequest) -> DemoReport:
    """Teach the base the subject, with and without class images, and lay the images out on a sheet.

    Raises as the stages `[prior]` and `[train]`, or Interrupted, after which the same call resumes.
    """
    with_prior = replace(lesson, folder=lesson.folder / "with-prior", with_prior=True)
    without = replace(lesson, folder=lesson.folder / "without-prior", with_prior=False)
    photos = take_photos(with_prior)
    take_photos(without)
    learn(with_prior, listener, stop)
    learn(without, listener, stop)
    identifier, class_ = lesson.identifier_prompt, lesson.class_prompt

    def images(model: Path, prompt: str) -> list[Image.Image]:
        return images_of(model, prompt, JUDGED, stopped=lambda: bool(stop))

    lines = {
        f"the {len(photos)} photos of the subject": photos,
        f"before: {identifier}": images(lesson.base, identifier),
        f"after: {identifier}": images(with_prior.model, identifier),
        f"before: {class_}": images(lesson.base, class_),
        f"after: {class_}": images(with_prior.model, class_),
        f"after, trained without class images: {class_}": images(without.model, class_),
    }
    _, before, after, _, drift, drift_without = lines.values()
    judge = Judge()

    def known(images: Sequence[Image.Image]) -> float:
        return recognised(judge, images, lesson)

    sheet = lesson.folder / SHEET
    with explained(str(sheet)):
        grid([line[:SHOWN] for line in lines.values()], list(lines), SIDE_SHOWN).save(sheet)
    return DemoReport(
        sheet,
        write_spec(with_prior),
        identifier,
        class_,
        known(before),
        known(after),
        known(drift),
        known(drift_without),
    )
