"""Hundreds of hostile files from Pillow's own tests go through the transform, each to an outcome."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pictures import spec
from turbo_fetch.outcomes import BY_NUMBER
from turbo_fetch.transform import Transform

CACHE = Path(__file__).parent.parent / ".cache" / "hostile"


def pillow_images() -> list[Path]:
    """Return the pictures of Pillow's source package, fetched once into the cache."""
    if not list(CACHE.glob("pillow-*.tar.gz")):
        CACHE.mkdir(parents=True, exist_ok=True)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-binary",
            ":all:",
            "--no-deps",
            "pillow",
        ]
        subprocess.run(pip, cwd=CACHE, check=True, timeout=280)
    archive = next(CACHE.glob("pillow-*.tar.gz"))
    folder = CACHE / archive.name.removesuffix(".tar.gz")
    if not folder.exists():
        with tarfile.open(archive) as files:
            files.extractall(CACHE, filter="data")
    return sorted(path for path in (folder / "Tests" / "images").rglob("*") if path.is_file())


@pytest.mark.timeout(300)
def test_every_hostile_file_ends_as_one_record() -> None:
    paths = pillow_images()
    assert len(paths) > 700
    transform = Transform(spec(mode="border", size=64, max_pixels=50_000_000), 2)
    batch = transform.run([path.read_bytes() for path in paths])
    labels = [BY_NUMBER[number].label for number in batch["outcome"].to_pylist()]
    assert len(labels) == len(paths)
    assert labels.count("success") > 600
    opened = {path.name: label for path, label in zip(paths, labels, strict=True)}
    assert opened["hopper.jpg"] == opened["hopper.webp"] == opened["hopper.gif"] == "success"
    assert opened["truncated_image.png"] == opened["broken_data_stream.png"] == "truncated"
    assert opened["zero_width.gif"] == "corrupt"
