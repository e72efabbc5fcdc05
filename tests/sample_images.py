"""Pictures for tests, made with Pillow, and a way to look at what the transform makes of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from turbo_fetch.shard.transform import Transform
from turbo_fetch.spec import ImageSpec

Pixels = npt.NDArray[np.uint8]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of a file of Pillow's format `kind`."""
    body = io.BytesIO()
    image.save(body, kind, **options)
    return body.getvalue()


def scene(width: int, height: int) -> Image.Image:
    """Return a smooth coloured image without symmetry, whose resampling is well defined."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    across, down = x / max(width - 1, 1), y / max(height - 1, 1)
    red = 255 * across
    green = 255 * down * (1 - across / 2)
    blue = 127.5 * (1 + np.sin(7 * across + 4 * down))
    return Image.fromarray(np.stack([red, green, blue], axis=-1).round().astype(np.uint8))


def spec(**options: Any) -> ImageSpec:
    """Return a spec that writes lossless images and keeps sides unless told otherwise."""
    return ImageSpec(**{"mode": "no", "encode": "png", "quality": 1, **options})


def transformed(body: bytes, threads: int = 1, **options: Any) -> dict[str, Any]:
    """Return the record that the transform makes of one body."""
    record: dict[str, Any] = Transform(spec(**options), threads).run([body]).to_pylist()[0]
    return record


def pixels(body: bytes, **options: Any) -> Pixels:
    """Return the pixels of the image that the transform makes of one body."""
    record = transformed(body, **options)
    assert record["outcome"] == 0, record["detail"]
    image = np.asarray(Image.open(io.BytesIO(record["image"])))
    assert image.shape[:2] == (record["height"], record["width"])
    return image


def difference(left: Any, right: Any) -> float:
    """Return the mean absolute difference of two images of equal shape, in levels of 8 bits."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    assert left.shape == right.shape
    return float(np.abs(left - right).mean())
