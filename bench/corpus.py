"""The corpus: thousands of distinct JPEG files of web sizes, cut from real photographs.

`python -m bench.corpus` builds it once; a second call only checks that it is there. Crops overlap and
have several scales; their areas are log-normal with a mean of 0.8 megapixels, qualities lie between 75
and 92, a quarter are progressive, and the files are 137 KB on average: the shape of a web crawl.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from PIL import Image

from bench.photos import ALL, FEW, Package, Photo, fetch_photos

DEFAULT_CACHE: Final = Path(".cache")
_VERSION: Final = 1
_ASPECTS: Final = (4 / 3, 3 / 2, 16 / 9, 1.0, 3 / 4, 2 / 3)
_SIGMA: Final = 0.55


@dataclass(frozen=True)
class CorpusPlan:
    """What to build; the same plan and photographs give the same files."""

    count: int
    packages: tuple[Package, ...]
    mean_pixels: int = 815_000
    least_pixels: int = 120_000
    most_pixels: int = 3_000_000
    progressive_share: float = 0.25
    seed: int = 0

    @property
    def name(self) -> str:
        """Folder of this plan's files within the cache."""
        text = json.dumps([_VERSION, asdict(self)], sort_keys=True)
        return f"corpus-{self.count}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Picture:
    """One file of the corpus; sides are in pixels."""

    name: str
    title: str
    licence: str
    width: int
    height: int
    quality: int
    progressive: bool
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Corpus:
    """A finished corpus: a folder of files and what they are, in order of name."""

    folder: Path
    pictures: tuple[Picture, ...]

    @property
    def mean_bytes(self) -> float:
        """Average size of a file."""
        return sum(image.size_bytes for image in self.pictures) / len(self.pictures)

    @property
    def mean_pixels(self) -> float:
        """Average area of an image."""
        return sum(image.width * image.height for image in self.pictures) / len(self.pictures)

    @property
    def digest(self) -> str:
        """One hash over all files, to prove that two machines measured the same input."""
        return hashlib.sha256("".join(image.sha256 for image in self.pictures).encode()).hexdigest()


LARGE: Final = CorpusPlan(2_000, ALL)
"""What the benchmarks serve."""
SMALL: Final = CorpusPlan(200, FEW)
"""What the demo serves; made in seconds."""


def build_corpus(plan: CorpusPlan, cache: Path = DEFAULT_CACHE) -> Corpus:
    """Return the corpus of `plan`, making it under `cache` on all cores unless it is there already."""
    folder = cache / plan.name
    index = folder / "index.json"
    if not index.is_file():
        photos = fetch_photos(plan.packages, cache)
        cache.mkdir(parents=True, exist_ok=True)
        work = cache / f".{plan.name}-{uuid.uuid4().hex[:8]}"
        work.mkdir()
        try:
            pictures = _cut_all(plan, photos, work)
            (work / "index.json").write_text(json.dumps([asdict(image) for image in pictures]))
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Corpus(folder, tuple(Picture(**entry) for entry in json.loads(index.read_text())))


def _cut_all(plan: CorpusPlan, photos: tuple[Photo, ...], folder: Path) -> list[Picture]:
    """Give each photograph its share of the numbers 0 to count, so that each is decoded only once."""
    order = list(range(plan.count))
    random.Random(plan.seed).shuffle(order)
    shares = [order[start :: len(photos)] for start in range(len(photos))]
    pictures: list[Picture] = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for made in pool.map(_cut_share, [plan] * len(photos), photos, shares, [folder] * len(photos)):
            pictures += made
    return sorted(pictures, key=lambda image: image.name)


def _cut_share(plan: CorpusPlan, photo: Photo, numbers: Iterable[int], folder: Path) -> list[Picture]:
    with Image.open(photo.path) as source:
        pixels = source.convert("RGB")
    return [_cut(plan, pixels, photo, number, folder) for number in numbers]


def _cut(plan: CorpusPlan, source: Image.Image, photo: Photo, number: int, folder: Path) -> Picture:
    chance = random.Random(f"{plan.seed}/{number}")
    width, height = _size(chance, plan, source.size)
    largest = min(source.width / width, source.height / height)
    scale = largest ** chance.uniform(0.6, 1.0)
    crop_width, crop_height = int(width * scale), int(height * scale)
    left = chance.randint(0, source.width - crop_width)
    top = chance.randint(0, source.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    quality = round(chance.triangular(75, 92, 92))
    progressive = chance.random() < plan.progressive_share
    path = folder / f"{number:05d}.jpg"
    # `reducing_gap` halves the cost and changes nothing that a re-encoded web image would show.
    image = source.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=2.0)
    image.save(path, "JPEG", quality=quality, progressive=progressive, optimize=False)
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()
    facts = (photo.title, photo.licence, width, height, quality, progressive, len(body), digest)
    return Picture(path.name, *facts)


def _size(chance: random.Random, plan: CorpusPlan, most: tuple[int, int]) -> tuple[int, int]:
    """Return sides of a log-normal area with the plan's mean, no larger than the photograph."""
    area = chance.lognormvariate(math.log(plan.mean_pixels) - _SIGMA**2 / 2, _SIGMA)
    area = min(max(area, plan.least_pixels), plan.most_pixels)
    aspect = chance.choice(_ASPECTS)
    width, height = math.sqrt(area * aspect), math.sqrt(area / aspect)
    shrink = min(1.0, most[0] / width, most[1] / height)
    return int(width * shrink), int(height * shrink)


def main() -> None:
    """Build a corpus and print what it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("--small", action="store_true", help="200 images of 13 photographs")
    arguments = parser.parse_args()
    started = time.monotonic()
    corpus = build_corpus(SMALL if arguments.small else LARGE, arguments.cache)
    progressive = sum(image.progressive for image in corpus.pictures) / len(corpus.pictures)
    print(
        f"{len(corpus.pictures)} images in {corpus.folder}, mean {corpus.mean_bytes / 1000:.0f} KB and "
        f"{corpus.mean_pixels / 1e6:.2f} MP, {progressive:.0%} progressive, digest {corpus.digest[:16]}, "
        f"{time.monotonic() - started:.1f} s"
    )


if __name__ == "__main__":
    main()
