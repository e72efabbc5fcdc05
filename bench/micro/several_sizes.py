"""Images of two sizes from one decode beside two runs: `python bench/micro/several_sizes.py`.

The transform alone, bodies in memory, on one thread: mode border, JPEG quality 95; web images to 512 and 256 pixels,
once with `size = 512, more_sizes = [256]`, once with each size by itself. They take turns; the figure is the processor
time of the process per image, least of the rounds. The small images of both are compared with Pillow's, decoded in
full and resized by Lanczos.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
LARGE: Final = 512
SMALL: Final = 256
BATCH: Final = 50
ROUNDS: Final = 5
MODE: Final = "keep_ratio_largest"
"""In which Pillow's images need no padding."""


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)
    from bench.corpus import CorpusPlan, build_corpus
    from bench.machine import describe_machine, now, our_versions
    from bench.photos import FEW

    from turbo_fetch.shard.transform import Transform
    from turbo_fetch.spec import ImageSpec

    corpus = build_corpus(CorpusPlan(arguments.count, FEW), Path(".cache"))
    bodies = [path.read_bytes() for path in sorted(corpus.folder.glob("*.jpg"))]
    specs = {
        "both": ImageSpec(size=LARGE, more_sizes=(SMALL,), mode="border"),
        "large": ImageSpec(size=LARGE, mode="border"),
        "small": ImageSpec(size=SMALL, mode="border"),
    }
    spent_ms = _measure({name: Transform(spec, 1) for name, spec in specs.items()}, bodies)
    two_ms = spent_ms["large"] + spent_ms["small"]
    both = Transform(ImageSpec(size=LARGE, more_sizes=(SMALL,), mode=MODE), 1).run(bodies)
    alone = Transform(ImageSpec(size=SMALL, mode=MODE), 1).run(bodies)
    result = {
        "micro": "several-sizes",
        "date": now(),
        "command": "python bench/micro/several_sizes.py",
        "machine": describe_machine(),
        "versions": our_versions(),
        "images": len(bodies),
        "ms_per_image": spent_ms | {"large and small": two_ms},
        "share": spent_ms["both"] / two_ms,
        "decibels_of_small": {
            "from one decode": _fidelity(bodies, both[f"image_{SMALL}"]),
            "by itself": _fidelity(bodies, alone["image"]),
        },
    }
    Path("bench/results/micro-several-sizes.json").write_text(json.dumps(result, indent=1) + "\n")
    print(
        json.dumps({name: result[name] for name in ("ms_per_image", "share", "decibels_of_small")}, indent=1)
    )


def _measure(transforms: dict[str, Any], bodies: list[bytes]) -> dict[str, float]:
    best: dict[str, float] = {}
    # The first round warms up, and counts only if it is the fastest.
    for _ in range(ROUNDS + 1):
        for name, transform in transforms.items():
            began = time.process_time()
            for start in range(0, len(bodies), BATCH):
                transform.run(bodies[start : start + BATCH])
            spent_ms = (time.process_time() - began) * 1e3 / len(bodies)
            best[name] = min(best.get(name, spent_ms), spent_ms)
    return best


def _fidelity(bodies: list[bytes], made: pa.Array) -> dict[str, float]:
    """Return how near images are to Pillow's, in decibels: their mean, and the twentieth part that is worst."""
    found = sorted(_decibels(body, image.as_py()) for body, image in zip(bodies, made, strict=True))
    return {"mean": statistics.mean(found), "5th percentile": found[len(found) // 20]}


def _decibels(body: bytes, made: bytes) -> float:
    image = Image.open(io.BytesIO(made)).convert("RGB")
    whole = Image.open(io.BytesIO(body)).convert("RGB")
    wanted = whole.resize(image.size, Image.Resampling.LANCZOS)
    error = np.asarray(image, np.float64) - np.asarray(wanted, np.float64)
    return float(10 * np.log10(255**2 / max(float((error**2).mean()), 1e-4)))


if __name__ == "__main__":
    main()
