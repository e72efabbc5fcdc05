"""One job for either program: what to fetch, what to make of it, and how to count what came out."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bench.corpus import Corpus


@dataclass(frozen=True)
class Job:
    """A list to download into 256-pixel images (mode border, JPEG quality 95, webdataset).

    `reencode` off keeps the original bytes. `authorities` is a PEM bundle to trust, for https.
    """

    urls: Path
    output: Path
    samples_per_shard: int
    reencode: bool = True
    timeout_s: int = 10
    retries: int = 0
    authorities: Path | None = None


@dataclass(frozen=True)
class Counted:
    """What a run left in its output folder."""

    images_ok: int
    failures: dict[str, int]
    output_bytes: int


def write_list(path: Path, base_url: str, corpus: Corpus, rows: int) -> Path:
    """Write a Parquet list of `rows` distinct URLs with captions, over and over the images of `corpus`."""
    pictures = [corpus.pictures[row % len(corpus.pictures)] for row in range(rows)]
    table = pa.table(
        {
            "url": [f"{base_url}/{image.name}?n={row}" for row, image in enumerate(pictures)],
            "caption": [f"{image.title}, crop {row}" for row, image in enumerate(pictures)],
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def count_output(folder: Path) -> Counted:
    """Add up a dataset from the shards' statistics, which both programs write with the same keys."""
    images_ok = 0
    failures: Counter[str] = Counter()
    for path in sorted(folder.glob("*_stats.json")):
        stats = json.loads(path.read_text())
        images_ok += stats["successes"]
        statuses = {name: number for name, number in stats["status_dict"].items() if name != "success"}
        failures.update(statuses)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Counted(images_ok, dict(failures), size)


def check_images(folder: Path, side: int | None) -> None:
    """Decode the first images of the first shard; raise `ValueError` unless they are what was asked for."""
    shards: Sequence[Path] = sorted(folder.glob("*.tar"))
    if not shards:
        raise ValueError(f"{folder} holds no shard")
    with tarfile.open(shards[0]) as archive:
        pictures = [member for member in archive if member.name.endswith(".jpg")][:10]
        if not pictures:
            raise ValueError(f"{shards[0]} holds no image")
        for member in pictures:
            content = archive.extractfile(member)
            assert content is not None
            with Image.open(io.BytesIO(content.read())) as image:
                image.load()
                if side is not None and image.size != (side, side):
                    raise ValueError(f"{member.name} of {shards[0]} is {image.size}, expected {side} squared")
