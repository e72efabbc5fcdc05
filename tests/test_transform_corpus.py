"""Hundreds of hostile files from Pillow's own tests go through the transform at once, each to an outcome."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


DIGESTS = """
import hashlib
from hostile_corpus import hostile_corpus
from memory_check import is_foreign
from sample_images import spec
from turbo_fetch.shard.transform import Transform

transform = Transform(spec(mode="no", encode="png", max_pixels=4_000_000), 1)
for name, body in sorted(hostile_corpus().items()):
    if is_foreign(body):
        record = transform.run([body])
        image = record["image"][0].as_py() or b""
        print(name, record["outcome"][0], record["detail"][0], hashlib.sha256(image).hexdigest())
"""


@pytest.mark.linux
@pytest.mark.timeout(1200)
def test_what_other_decoders_left_unwritten_is_in_no_image() -> None:
    """Memory that nobody wrote is filled otherwise each time."""
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    said = [
        subprocess.run(
            [sys.executable, "-c", DIGESTS],
            env={**os.environ, "PYTHONPATH": paths, "MALLOC_PERTURB_": fill},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for fill in ("1", "170")
    ]
    assert len(said[0]) > 100
    assert said[0] == said[1]
