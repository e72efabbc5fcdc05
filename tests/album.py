"""Pictures for tests: textured, each different, quick to make."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def pixels(width: int, height: int, seed: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Return smooth coloured noise of shape (height, width, 3), uint8, different for each seed."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(width: int, height: int, seed: int, kind: str = "JPEG", **options: object) -> bytes:
    """Return such an image as a file of the kind that Pillow calls `kind`."""
    out = io.BytesIO()
    Image.fromarray(pixels(width, height, seed)).save(out, kind, **options)
    return out.getvalue()


def album(count: int, side: int = 160) -> dict[str, bytes]:
    """Return `count` JPEG images of about `side` pixels by path."""
    return {f"{seed:05d}.jpg": encoded(side + seed % 7 * 10, side, seed) for seed in range(count)}
