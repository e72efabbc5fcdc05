"""Training teaches what it should: a small model, made here in seconds, learns a subject that it has never seen.

What is compared is pixels, as this base draws too poorly for the judge. That the identifier alone comes to mean the
subject, and that class images keep the class, takes a better one: `python -m bench.dreambooth_proof`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from turbo_fetch.dreambooth.toy.base import Recipe, train_base
from turbo_fetch.dreambooth.toy.demo import Lesson, images_of, learn, take_photos
from turbo_fetch.progress.listener import ProgressListener
from turbo_fetch.stop import StopRequest

Pixels = NDArray[np.float32]

IMAGES = 16


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    base = tmp_path_factory.mktemp("base")
    train_base(base, Recipe(vae_steps=220, steps=100, batch=16, pictures=300))
    return Lesson(base, "target circle", base / "lesson", with_prior=False, options={"steps": 150})


def test_what_is_drawn_comes_closer_to_the_photos(lesson: Lesson, tmp_path: Path) -> None:
    before = _pixels(images_of(lesson.base, lesson.class_prompt, IMAGES))
    photos = _pixels(take_photos(replace(lesson, folder=tmp_path / "photos")))
    after = _class_after(replace(lesson, folder=tmp_path / "lesson"))
    assert _distance(after, photos) < 0.7 * _distance(before, photos)


def test_a_rate_at_which_nothing_is_learned_changes_no_image(lesson: Lesson, tmp_path: Path) -> None:
    still = {"learning_rate": 1e-12, "steps": 5}
    after = _class_after(replace(lesson, folder=tmp_path, options=still))
    before = _pixels(images_of(lesson.base, lesson.class_prompt, IMAGES))
    assert np.abs(after - before).max() < 0.02


def _class_after(lesson: Lesson) -> Pixels:
    """Return what the model draws of the class after a lesson, from the same seeds as any other."""
    take_photos(lesson)
    learn(lesson, ProgressListener(), StopRequest())
    return _pixels(images_of(lesson.model, lesson.class_prompt, IMAGES))


def _pixels(images: list[Image.Image]) -> Pixels:
    """Return images [N, height, width, 3] in 0…1."""
    return np.stack([np.asarray(image.convert("RGB"), np.float32) / 255 for image in images])


def _distance(images: Pixels, photos: Pixels) -> Any:
    """Return how far images are from the photo that is nearest to each: the mean squared difference."""
    return np.square(images[:, None] - photos[None]).mean((2, 3, 4)).min(1).mean()
