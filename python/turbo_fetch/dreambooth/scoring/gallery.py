"""Small copies of pictures, as addresses that a page holds in itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

from turbo_fetch.dreambooth.scoring.measure import Scores

SIDE: Final = 144
QUALITY: Final = 82


@dataclass(frozen=True, slots=True)
class Gallery:
    """The pictures of a model as data URLs: those of the prompts, prompt by prompt, and those of the class."""

    prompts: list[str]
    class_: list[str]


@dataclass(frozen=True, slots=True)
class Real:
    """The real pictures as data URLs, and how much they are like each other."""

    pictures: list[str]
    scores: Scores


def thumbnails(pictures: Sequence[Image.Image]) -> list[str]:
    """Return data URLs of the pictures, none larger than 144 pixels; what is smaller stays as it is."""
    return [_thumbnail(picture) for picture in pictures]


def _thumbnail(picture: Image.Image) -> str:
    file = io.BytesIO()
    if max(picture.size) <= SIDE:
        picture.save(file, "PNG")
        kind = "png"
    else:
        small = picture.convert("RGB")
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
        small.save(file, "JPEG", quality=QUALITY)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
