"""From images to scores: formulas over features, scores per prompt and model, the best step, and `scores.json`.

The formulas are those of the DreamBooth paper (arXiv 2208.12242, section 4).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, Final, cast

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from turbo_fetch import __version__
from turbo_fetch.dreambooth.scoring.encoders import Distance, Encoder
from turbo_fetch.spec import EvaluateSpec
from turbo_fetch.spec.dreambooth import Metric
from turbo_fetch.storage import Storage

Scores = dict[Metric, float]

SCORES: Final = "scores.json"
_LIBRARIES: Final = ("torch", "diffusers", "transformers", "peft")
_PLACES: Final = frozenset(
    {"models", "base", "subject", "prompts", "class_prompt", "output", "identifier", "class_"}
)
"""Keys whose meaning is recorded otherwise: by weights, by images, or filled in."""

METRIC_NAMES: Final[Mapping[Metric, str]] = {
    "dino": "DINO",
    "clip_i": "CLIP-I",
    "clip_t": "CLIP-T",
    "pres": "PRES",
    "div": "DIV",
    "class_div": "class DIV",
    "lpips": "LPIPS",
}
"""The names that papers give the """
_FIDELITY: Final[tuple[Metric, ...]] = ("dino", "clip_i")


def similarity(one: Tensor, other: Tensor) -> float:
    """Return the mean cosine similarity of all pairs of features [N, D] and [M, D]."""
    return float((normalize(one, dim=1) @ normalize(other, dim=1).T).mean())


def prompt_similarity(images: Tensor, text: Tensor) -> float:
    """Return the mean cosine similarity of images [N, D] with the text [D] that they were made from."""
    return float(cosine_similarity(images, text[None], dim=1).mean())


def diversity(features: Tensor) -> float:
    """Return the mean cosine distance, 0 to 2, of all pairs of different rows of features [N, D], N at least 2.

    1 - cosine, so that it says something about any encoder, whatever the length of its features.
    """
    first, second = torch.triu_indices(len(features), len(features), offset=1)
    return float(1 - cosine_similarity(features[first], features[second], dim=1).mean())


def drift(pres: float, pres_before: float) -> float:
    """Return how much more the class looks like the subject than before training, at least 0.

    A class that looks less like it has not drifted towards the subject; without the bound a model that makes
    noise of every class would be praised for it.
    """
    return max(0.0, pres - pres_before)


def margin(fidelity: float, drifted: float) -> float:
    """Return what decides which step is best: subject fidelity less drift, both cosines of the same encoder."""
    return fidelity - drifted


@dataclass(frozen=True, slots=True)
class Encoders:
    """What the wanted metrics need; None for what none of them does."""

    dino: Encoder | None
    clip: Encoder | None
    lpips: Distance | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """Features [N, D] of the same images by both encoders."""

    dino: Tensor | None
    clip: Tensor | None


@dataclass(frozen=True, slots=True)
class Subject:
    """What all models are compared with: the real images, and the prompts with their features [N, D]."""

    real: Features
    prompts: tuple[str, ...]
    texts: Tensor | None


@dataclass(frozen=True, slots=True)
class PromptScores:
    """A prompt and what its images score."""

    prompt: str
    scores: Scores


@dataclass(frozen=True, slots=True)
class ModelScores:
    """What a model scores: `scores` are means over its prompts, and those of its images of the class."""

    name: str
    step: int | None
    model: str
    lora: str | None
    scores: Scores
    prompts: list[PromptScores] = field(default_factory=list)

    def text(self) -> str:
        """Return the scores as a line for a person."""
        return ", ".join(f"{METRIC_NAMES[metric]} {value:.3f}" for metric, value in self.scores.items())


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which model is best, by which rule, and by how much each model is good."""

    best: str
    rule: str
    fidelity: Metric
    """What measures the similarity to the subject."""
    margins: Mapping[str, float]
    before: str | None = None
    """Name of the base, if it was scored."""

    def text(self) -> str:
        """Return the verdict as words for a person."""
        if self.before is not None and self.margins[self.before] >= self.margins[self.best]:
            return f"best is {self.best}, but it is no better than {self.before}"
        return f"best is {self.best}"


def see(encoders: Encoders, images: Sequence[Image.Image]) -> Features:
    """Return the features of images by the encoders that there are."""
    return Features(
        encoders.dino.images(images) if encoders.dino else None,
        encoders.clip.images(images) if encoders.clip else None,
    )


def real_scores(wanted: Sequence[Metric], real: Features) -> Scores:
    """Return how much the real images are like each other, which no model can be expected to surpass.

    Nothing if there is only one.
    """
    scores: Scores = {}
    for metric, features in (("dino", real.dino), ("clip_i", real.clip)):
        if metric in wanted and features is not None and len(features) > 1:
            scores[cast("Metric", metric)] = 1 - diversity(features)
    return scores


def joined(parts: Sequence[Features]) -> Features:
    """Return the features of several lots of images as one."""
    dino, clip = (
        [features for features in lot if features is not None]
        for lot in ([part.dino for part in parts], [part.clip for part in parts])
    )
    return Features(torch.cat(dino) if dino else None, torch.cat(clip) if clip else None)


def prompt_scores(wanted: Sequence[Metric], made: Features, subject: Subject) -> list[PromptScores]:
    """Return the scores of the images of each prompt; `made` has as many of each, prompt by prompt."""
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
        scores["dino"] = similarity(made.dino, real.dino)
    if "clip_i" in wanted and made.clip is not None and real.clip is not None:
        scores["clip_i"] = similarity(made.clip, real.clip)
    if "clip_t" in wanted and made.clip is not None and texts is not None:
        scores["clip_t"] = prompt_similarity(made.clip, texts[row])
    if "div" in wanted and made.dino is not None:
        scores["div"] = diversity(made.dino)
    return scores


def class_scores(wanted: Sequence[Metric], made: Tensor, real: Tensor) -> Scores:
    """Return the scores of images of the class [N, D] against the real ones of the subject [M, D]."""
    scores: Scores = {}
    if "pres" in wanted:
        scores["pres"] = similarity(made, real)
    if "class_div" in wanted:
        scores["class_div"] = diversity(made)
    return scores


def mean_scores(prompts: Sequence[PromptScores]) -> Scores:
    """Return the mean over prompts of each metric; all prompts have as many images."""
    if not prompts:
        return {}
    return {
        metric: sum(each.scores[metric] for each in prompts) / len(prompts) for metric in prompts[0].scores
    }


def judge(models: Sequence[ModelScores], base: str | None) -> Verdict | None:
    """Return which of the models in training order is best; None if nothing measures the similarity to the subject.

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
        risen = drift(model.scores["pres"], models[0].scores["pres"]) if has_drift else 0.0
        margins[model.name] = margin(model.scores[fidelity], risen)
    chosen = [name for name in margins if name != base] or list(margins)
    rule = f"largest {METRIC_NAMES[fidelity]}"
    if has_drift:
        rule += f" less the rise of PRES above that of {models[0].name}"
    return Verdict(
        max(chosen, key=margins.__getitem__), rule, fidelity, margins, base if base in margins else None
    )


def made_with(
    evaluate: EvaluateSpec,
    prompts: Sequence[str],
    class_prompt: str,
    subject: Sequence[str],
    weights: Mapping[str, str],
) -> dict[str, Any]:
    """Return all that scores depend on: `subject` are digests of the real images, `weights` hashes by name."""
    return {
        "settings": evaluate.model_dump(mode="json", exclude=set(_PLACES)),
        "prompts": list(prompts),
        "class_prompt": class_prompt,
        "subject": list(subject),
        "weights": dict(weights),
    }


def as_json(
    facts: Mapping[str, Any], models: Sequence[ModelScores], verdict: Verdict | None, real: Scores
) -> bytes:
    """Return the content of `scores.json`; `real` is how much the real images are like each other."""
    content = {
        "turbo_fetch": __version__,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "made_with": facts,
        "best": None if verdict is None else asdict(verdict),
        "real": real,
        "models": [asdict(model) for model in models],
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def read_scores(place: Storage, facts: Mapping[str, Any]) -> tuple[list[ModelScores], Verdict | None] | None:
    """Return the scores in a place if they were made with these facts; None if not, or if there are none."""
    try:
        content = json.loads(place.read_bytes(SCORES))
        if content["made_with"] != facts:
            return None
        models = [
            ModelScores(**{**model, "prompts": [PromptScores(**each) for each in model["prompts"]]})
            for model in content["models"]
        ]
        return models, None if content["best"] is None else Verdict(**content["best"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
