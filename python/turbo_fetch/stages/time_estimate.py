"""How long a run will take, from what the spec allows and what this machine does with images just now.

What nobody knows before a run, such as how fast servers answer and how large images are, is a range; so is the
result.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from turbo_fetch.shard.transform import Transform
from turbo_fetch.spec import FetchSpec, ImageSpec

MEASURED_S: Final = 0.7
IMAGE_SIDES: Final = (1024, 768)
QUALITY: Final = 88


class Span(NamedTuple):
    """The least and the most of something."""

    least: float
    most: float

    def __mul__(self, factor: float) -> Span:  # type: ignore[override]  # a span is no sequence to be repeated
        return Span(self.least * factor, self.most * factor)


START_S: Final = Span(0.7, 6.0)
"""From the command to the first request: 0.7 s of CPU (`bench/results/first-request.json`), on a busy machine more."""
REQUEST_S: Final = Span(0.1, 1.0)
"""From a request to the end of its body, as servers all over the web take it."""
FETCH_CPU_S: Final = Span(0.0003, 0.0012)
"""Of a row, decoding apart; 0.84 ms in docs/decisions/politeness-across-workers.md, tiny images included."""
IMAGE_TIMES: Final = Span(0.05, 2.5)
"""Work of an image, as a multiple of the sample's: from thumbnails to large and progressive files."""


IN_FLIGHT: Final = "the requests in flight (fetch.http.concurrency)"
BODY_BYTES: Final = Span(75_000, 300_000)
"""Of a download, as lists differ."""


class MachineSpeed(NamedTuple):
    """What this machine does now, beside all else that runs on it."""

    image_s: float
    """Seconds of all its cores together for one image like the sample."""
    core_share: float
    """The part of its cores that work of ours gets."""


def measure_machine(image: ImageSpec, cores: int) -> MachineSpeed:
    """Transform an image as large as those of web lists, as the spec says, again and again for less than a second."""
    transform = Transform(image, cores)
    batch = [_sample_image()] * (4 * cores)
    transform.run(batch)
    began_s, began_cpu_s, images = time.perf_counter(), time.process_time(), 0
    while (spent_s := time.perf_counter() - began_s) < MEASURED_S:
        transform.run(batch)
        images += len(batch)
    share = (time.process_time() - began_cpu_s) / (spent_s * cores)
    return MachineSpeed(spent_s / images, min(1.0, max(share, 0.05)))


def time_limits(
    fetch: FetchSpec, rows: int, domains: Mapping[str, float], workers: int, cores: int, speed: MachineSpeed
) -> dict[str, Span]:
    """Return the seconds that each limit alone would make a run take; `domains` are shares of the rows, by name."""
    http = fetch.http
    fetching = FETCH_CPU_S * (1 / (cores * speed.core_share))
    images = IMAGE_TIMES * speed.image_s
    limits = {
        IN_FLIGHT: REQUEST_S * (rows / (http.concurrency * workers)),
        "the processor": Span(*(rows * sum(both) for both in zip(fetching, images, strict=True))),
    }
    if http.max_bytes_per_s is not None:
        limits["the bandwidth (fetch.http.max_mbps)"] = BODY_BYTES * (rows / http.max_bytes_per_s)
    for name, share in domains.items():
        preset = http.preset(name)
        # The limit of a domain holds for all workers together.
        at_once = http.limit_of(preset)
        interval_s = preset.delay_s or 0.0
        if at_once or interval_s:
            spans = (max(interval_s, request_s / (at_once or http.concurrency)) for request_s in REQUEST_S)
            limits[f"the domain {name} (fetch.http.per_domain)"] = Span(*spans) * (rows * share)
    return limits


def tightest(limits: Mapping[str, Span]) -> tuple[str, Span]:
    """Return the limit that makes a run take longest, and how long it takes, its start included."""
    name = max(limits, key=lambda each: sum(limits[each]))
    least, most = (max(each) for each in zip(*limits.values(), strict=True))
    return name, Span(START_S.least + least, START_S.most + most)


def _sample_image() -> bytes:
    """Return a JPEG of 0.8 MP and about 150 KB: brightness that wanders, as in photos, and some noise."""
    width, height = IMAGE_SIDES
    random = np.random.default_rng(0)
    wander = random.normal(size=(height, 1, 3)).cumsum(0) + random.normal(size=(1, width, 3)).cumsum(1)
    noisy = 128 + 2 * wander + random.normal(scale=6, size=(height, width, 1))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
