"""From pictures to scores: per prompt, per model, and which step is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import torch
from PIL import Image
from torch import Tensor

from turbo_fetch.dreambooth import metrics
from turbo_fetch.dreambooth.scoring.encoders import Encoder
from turbo_fetch.dreambooth.scoring.perceptual import Distance
from turbo_fetch.spec.dreambooth import Metric

Scores = dict[Metric, float]

SPOKEN: Final[Mapping[Metric, str]] = {
    "dino": "DINO",
    "clip_i": "CLIP-I",
    "clip_t": "CLIP-T",
    "pres": "PRES",
    "div": "DIV",
    "class_div": "class DIV",
    "lpips": "LPIPS",
}
"""The names that papers give the metrics."""
_FIDELITY: Final[tuple[Metric, ...]] = ("dino", "clip_i")


@dataclass(frozen=True, slots=True)
class Encoders:
    """What the wanted metrics need; None for what none of them does."""

    dino: Encoder | None
    clip: Encoder | None
    lpips: Distance | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """Features [N, D] of the same pictures by both encoders."""

    dino: Tensor | None
    clip: Tensor | None


@dataclass(frozen=True, slots=True)
class Subject:
    """What all models are compared with: the real pictures, and the prompts with their features [N, D]."""

    real: Features
    prompts: tuple[str, ...]
    texts: Tensor | None


@dataclass(frozen=True, slots=True)
class PromptScores:
    """A prompt and what its pictures score."""

    prompt: str
    scores: Scores


@dataclass(frozen=True, slots=True)
class ModelScores:
    """What a model scores: `scores` are means over its prompts, and those of its pictures of the class."""

    name: str
    step: int | None
    model: str
    lora: str | None
    scores: Scores
    prompts: list[PromptScores] = field(default_factory=list)

    def text(self) -> str:
        """Return the scores as a line for a person."""
        return ", ".join(f"{SPOKEN[metric]} {value:.3f}" for metric, value in self.scores.items())


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which model is best, by which rule, and by how much each model is good."""

    best: str
    rule: str
    fidelity: Metric
    """What measures the likeness to the subject."""
    margins: Mapping[str, float]
    before: str | None = None
    """Name of the base, if it was scored."""

    def text(self) -> str:
        """Return the verdict as words for a person."""
        if self.before is not None and self.margins[self.before] >= self.margins[self.best]:
            return f"best is {self.best}, but it is no better than {self.before}"
        return f"best is {self.best}"


def see(encoders: Encoders, pictures: Sequence[Image.Image]) -> Features:
    """Return the features of pictures by the encoders that there are."""
    return Features(
        encoders.dino.pictures(pictures) if encoders.dino else None,
        encoders.clip.pictures(pictures) if encoders.clip else None,
    )


def real_scores(wanted: Sequence[Metric], real: Features) -> Scores:
    """Return how much the real pictures are like each other, which no model can be expected to surpass.

    Nothing if there is only one.
    """
    scores: Scores = {}
    for metric, features in (("dino", real.dino), ("clip_i", real.clip)):
        if metric in wanted and features is not None and len(features) > 1:
            scores[cast("Metric", metric)] = 1 - metrics.diversity(features)
    return scores


def joined(parts: Sequence[Features]) -> Features:
    """Return the features of several lots of pictures as one."""
    dino, clip = (
        [features for features in lot if features is not None]
        for lot in ([part.dino for part in parts], [part.clip for part in parts])
    )
    return Features(torch.cat(dino) if dino else None, torch.cat(clip) if clip else None)


def prompt_scores(wanted: Sequence[Metric], made: Features, subject: Subject) -> list[PromptScores]:
    """Return the scores of the pictures of each prompt; `made` has as many of each, prompt by prompt."""
    dino, clip = (_by_prompt(features, len(subject.prompts)) for features in (made.dino, made.clip))
    return [
        PromptScores(prompt, _scores(wanted, Features(dino[row], clip[row]), subject, row))
        for row, prompt in enumerate(subject.prompts)
    ]


def _by_prompt(features: Tensor | None, prompts: int) -> list[Tensor | None]:
    return [None] * prompts if features is None else list(features.chunk(prompts))


def _scores(wanted: Sequence[Metric], made: Features, subject: Subject, row: int) -> Scores:
    real, texts = subject.real, subject.texts
    scores: Scores = {}
    if "dino" in wanted and made.dino is not None and real.dino is not None:
        scores["dino"] = metrics.likeness(made.dino, real.dino)
    if "clip_i" in wanted and made.clip is not None and real.clip is not None:
        scores["clip_i"] = metrics.likeness(made.clip, real.clip)
    if "clip_t" in wanted and made.clip is not None and texts is not None:
        scores["clip_t"] = metrics.prompt_likeness(made.clip, texts[row])
    if "div" in wanted and made.dino is not None:
        scores["div"] = metrics.diversity(made.dino)
    return scores


def class_scores(wanted: Sequence[Metric], made: Tensor, real: Tensor) -> Scores:
    """Return the scores of pictures of the class [N, D] against the real ones of the subject [M, D]."""
    scores: Scores = {}
    if "pres" in wanted:
        scores["pres"] = metrics.likeness(made, real)
    if "class_div" in wanted:
        scores["class_div"] = metrics.diversity(made)
    return scores


def mean_scores(prompts: Sequence[PromptScores]) -> Scores:
    """Return the mean over prompts of each metric; all prompts have as many pictures."""
    if not prompts:
        return {}
    return {
        metric: sum(each.scores[metric] for each in prompts) / len(prompts) for metric in prompts[0].scores
    }


def judge(models: Sequence[ModelScores], base: str | None) -> Verdict | None:
    """Return which of the models in training order is best; None if nothing measures the likeness to the subject.

    Best is the largest margin: fidelity (DINO, or CLIP-I if that alone is measured) less drift, which is how much
    PRES rose above that of the base, or of the first model if there is no base. Of equal ones it is the earliest.
    The base itself is not chosen.
    """
    fidelity: Metric | None = next((name for name in _FIDELITY if name in models[0].scores), None)
    if fidelity is None:
        return None
    has_drift = "pres" in models[0].scores and fidelity == "dino"
    margins = {}
    for model in models:
        drift = metrics.drift(model.scores["pres"], models[0].scores["pres"]) if has_drift else 0.0
        margins[model.name] = metrics.margin(model.scores[fidelity], drift)
    chosen = [name for name in margins if name != base] or list(margins)
    rule = f"largest {SPOKEN[fidelity]}"
    if has_drift:
        rule += f" less the rise of PRES above that of {models[0].name}"
    return Verdict(
        max(chosen, key=margins.__getitem__), rule, fidelity, margins, base if base in margins else None
    )
