"""Captions and masks for `train.pictures.annotator`, by simple rules: put a model of your own in their place.

Images of one thing before a plain background get its main colour as words, and a mask of what is not background:

    [train.pictures]
    annotator = "annotator.py"
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (220, 40, 40),
    "orange": (240, 150, 40),
    "yellow": (240, 220, 60),
    "green": (50, 160, 60),
    "blue": (50, 90, 210),
    "purple": (130, 60, 170),
    "brown": (120, 80, 50),
}
DIFFERENCE = 60
"""How far a pixel's colour is from that of the border, of 255, where it is no background."""


def captions(images: Sequence[Image.Image]) -> list[str]:
    """Return a caption of each image that names the colours of the thing and of what is behind it."""
    return [_caption(np.asarray(image, dtype=float)) for image in images]


def masks(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Return a mask of each image: white where the colour is not that of the border, with a soft edge."""
    found = []
    for image in images:
        differs = _is_thing(np.asarray(image, dtype=float))
        mask = Image.fromarray(np.where(differs, 255, 0).astype(np.uint8))
        found.append(mask.filter(ImageFilter.GaussianBlur(max(image.size) / 100)))
    return found


def _caption(pixels: np.ndarray) -> str:
    thing = _is_thing(pixels)
    behind = _named(np.median(_border(pixels), axis=0))
    if not thing.any():
        return f"a photo of {{identifier}} {{class}}, all {behind}"
    return f"a photo of a {_named(np.median(pixels[thing], axis=0))} {{identifier}} {{class}} on {behind}"


def _is_thing(pixels: np.ndarray) -> np.ndarray:
    away = np.abs(pixels - np.median(_border(pixels), axis=0)).max(axis=-1)
    return away > DIFFERENCE


def _border(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _named(colour: np.ndarray) -> str:
    return min(COLOURS, key=lambda name: float(np.square(colour - COLOURS[name]).sum()))
