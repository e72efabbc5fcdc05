"""A judge that says how surely an image shows a subject, trained on drawings in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in this field
from PIL import Image
from torch import Tensor, nn

from turbo_fetch.dreambooth.toy.shapes import (
    COLOURS,
    PATTERNS,
    SHAPES,
    SIDE,
    SUBJECTS,
    Figure,
    draw,
    placed,
    random_figure,
)

_STEPS: Final = 800
_BATCH: Final = 96
_OF_EACH_SUBJECT: Final = 1600
_OTHERS: Final = 6400


class Judge:
    """Knows the subjects from all other shapes, those that differ in one thing only too."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self._network = _trained(*_lesson(random))

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Image.Image], subject: str) -> list[float]:
        """Return P(subject | image) of each image; `subject` is one of SUBJECTS."""
        scaled = [
            image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
            if image.size != (SIDE, SIDE)
            else image.convert("RGB")
            for image in images
        ]
        pixels = np.stack([np.asarray(image, np.float32) / 255 for image in scaled])
        scores = self._network(_tensor(pixels)).softmax(dim=1)[:, list(SUBJECTS).index(subject)]
        return [float(score) for score in scores]


def _lesson(random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return images and the number of the subject on each, which is one more than the last for none."""
    figures: list[Figure] = []
    answers: list[int] = []
    for number, subject in enumerate(SUBJECTS.values()):
        figures += [placed(subject, random) for _ in range(_OF_EACH_SUBJECT)]
        answers += [number] * _OF_EACH_SUBJECT
    others = [_another(random) for _ in range(_OTHERS)]
    figures += others
    answers += [len(SUBJECTS)] * len(others)
    pixels = np.stack([draw(figure) for figure in figures])
    return _tensor(pixels), torch.tensor(answers)


def _another(random: np.random.Generator) -> Figure:
    """Return any shape that is no subject; every second one is a subject with one thing changed."""
    while True:
        if random.random() < 0.5:
            figure = random_figure(random, PATTERNS)
        else:
            figure = placed(_changed(SUBJECTS[str(random.choice(list(SUBJECTS)))], random), random)
        if not any(_same(figure, subject) for subject in SUBJECTS.values()):
            return figure


def _changed(subject: Figure, random: np.random.Generator) -> Figure:
    first, second = subject.colours
    colour = str(random.choice([name for name in COLOURS if name not in subject.colours]))
    return (
        replace(subject, pattern=str(random.choice(PATTERNS))),
        replace(subject, shape=str(random.choice(list(SHAPES)))),
        replace(subject, colours=(colour, second)),
        replace(subject, colours=(first, colour)),
        replace(subject, colours=(second, first)),
    )[random.integers(5)]


def _same(one: Figure, other: Figure) -> bool:
    return (one.shape, one.colours, one.pattern) == (other.shape, other.colours, other.pattern)


def _trained(pixels: Tensor, answers: Tensor) -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48 * (SIDE // 4) ** 2, len(SUBJECTS) + 1),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, _STEPS)
    for _ in range(_STEPS):
        chosen = torch.randint(len(pixels), (_BATCH,))
        # Generated images are a little blurred and noisy, which is no fault of the subject.
        seen = _blurred(pixels[chosen]) + 0.06 * torch.randn(_BATCH, 1, 1, 1) * torch.randn(
            _BATCH, 3, SIDE, SIDE
        )
        loss = F.cross_entropy(network(seen), answers[chosen], label_smoothing=0.01)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def _blurred(pixels: Tensor) -> Tensor:
    """Return the images [N, 3, H, W], each mixed with its own blur by a random share."""
    share = torch.rand(len(pixels), 1, 1, 1)
    blurred = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    return (1 - share) * pixels + share * blurred


def _tensor(pixels: np.ndarray[Any, Any]) -> Tensor:
    """Return images (N, height, width, 3) in 0…1 as a tensor (N, 3, height, width) in -1…1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous() * 2 - 1
