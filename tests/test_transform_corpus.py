"""Hundreds of hostile files from Pillow's own tests go through the transform at once, each to an outcome."""

from __future__ import annotations

import pytest

from hostile_corpus import hostile_corpus
from sample_images import spec
from turbo_fetch.outcomes import BY_NUMBER
from turbo_fetch.shard.transform import Transform


@pytest.mark.linux
@pytest.mark.timeout(1200)
def test_every_hostile_file_ends_as_one_record() -> None:
    files = {
        name.removeprefix("pillow/"): body
        for name, body in hostile_corpus().items()
        if name.startswith("pillow/")
    }
    assert len(files) > 700
    transform = Transform(spec(mode="border", size=64, max_pixels=50_000_000), 2)
    batch = transform.run(list(files.values()))
    labels = [BY_NUMBER[number].label for number in batch["outcome"].to_pylist()]
    assert len(labels) == len(files)
    assert labels.count("success") > 650
    opened = dict(zip(files, labels, strict=True))
    assert opened["hopper.jpg"] == opened["hopper.webp"] == opened["hopper.gif"] == "success"
    assert opened["hopper.ico"] == opened["hopper_bigtiff.tif"] == "success"
    assert opened["truncated_image.png"] == opened["broken_data_stream.png"] == "truncated"
    assert opened["zero_width.gif"] == "corrupt"
