"""A success is the image that the world sees: every file of other projects' tests, and generated ones, beside Pillow."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from generated_pictures import generated
from hostile_corpus import hostile_corpus
from pictures import spec
from turbo_fetch.transform import Transform
from world import MAX_PIXELS, Verdict, verdict

PICTURES = 2000 if os.environ.get("HYPOTHESIS_PROFILE") == "slow" else 300


@pytest.mark.timeout(1200)
def test_every_file_of_the_corpora_is_the_image_that_pillow_shows_or_an_outcome() -> None:
    transform = Transform(spec(max_pixels=MAX_PIXELS), 2)
    verdicts = {name: verdict(transform, body) for name, body in hostile_corpus().items()}
    assert _wrong(verdicts) == {}
    counts = Counter(each.word for each in verdicts.values())
    assert counts["same"] > 950, counts
    assert counts["only-ours"] < 15, counts


@pytest.mark.timeout(1200)
def test_every_generated_picture_is_the_image_that_pillow_shows_or_an_outcome() -> None:
    transform = Transform(spec(), 2)
    made = dict(generated(seed) for seed in range(PICTURES))
    verdicts = {words: verdict(transform, body) for words, body in made.items()}
    assert _wrong(verdicts) == {}
    counts = Counter(each.word for each in verdicts.values())
    assert counts["same"] > 0.7 * PICTURES, counts
    assert counts["corrupt"] + counts["truncated"] + counts["not-an-image"] == 0, counts


def _wrong(verdicts: dict[str, Verdict]) -> dict[str, str]:
    return {name: each.detail for name, each in verdicts.items() if each.is_wrong}
