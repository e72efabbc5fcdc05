"""A success is the image that the world sees: files of other projects' tests and generated ones, beside Pillow."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from generated_images import generated
from hostile_corpus import hostile_corpus
from sample_images import spec
from turbo_fetch.shard.transform import Transform
from witnesses import tifffile_sees
from world import MAX_PIXELS, Verdict, compared, verdict

PICTURES = 2000 if os.environ.get("HYPOTHESIS_PROFILE") == "slow" else 300


@pytest.mark.linux
@pytest.mark.timeout(1200)
def test_every_file_of_the_corpora_is_the_image_that_pillow_shows_or_an_outcome() -> None:
    transform = Transform(spec(max_pixels=MAX_PIXELS), 2)
    verdicts = {name: verdict(transform, body) for name, body in hostile_corpus().items()}
    assert _wrong(verdicts) == {}
    counts = Counter(each.word for each in verdicts.values())
    assert counts["same"] > 930, counts
    assert counts["only-ours"] < 15, counts


@pytest.mark.timeout(1200)
def test_every_generated_image_is_the_image_that_pillow_shows_or_an_outcome() -> None:
    transform = Transform(spec(), 2)
    made = dict(generated(seed) for seed in range(PICTURES))
    verdicts = {words: verdict(transform, body) for words, body in made.items()}
    assert _wrong(verdicts) == {}
    counts = Counter(each.word for each in verdicts.values())
    assert counts["same"] > 0.7 * PICTURES, counts
    assert counts["corrupt"] + counts["truncated"] + counts["not-an-image"] == 0, counts


def test_the_pages_of_tiff_that_are_read_are_those_that_tifffile_reads() -> None:
    transform = Transform(spec(), 2)
    made = (generated(seed) for seed in range(PICTURES))
    pages = {words: body for words, body in made if "tifffile" in words}
    read = 0
    for words, body in pages.items():
        record = transform.run([body]).to_pylist()[0]
        expected = tifffile_sees(body)
        if record["outcome"] == 0 and expected is not None:
            assert compared(record["image"], expected).word == "same", words
            read += 1
    assert read > len(pages) / 3


def _wrong(verdicts: dict[str, Verdict]) -> dict[str, str]:
    return {name: each.detail for name, each in verdicts.items() if each.is_wrong}
