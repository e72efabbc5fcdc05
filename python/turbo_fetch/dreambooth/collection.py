"""The pictures of one kind, subject or class, as training examples: buckets, variants, captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch
from torch import Tensor

from turbo_fetch.dreambooth import geometry
from turbo_fetch.dreambooth.geometry import Cut, Size
from turbo_fetch.dreambooth.pictures import Picture, render
from turbo_fetch.dreambooth.sequence import draws
from turbo_fetch.spec.train import PicturesSpec

_CENTER: Final = (0.5, 0.5)


@dataclass(frozen=True)
class Collection:
    """Pictures with a size and a caption each, and how they are varied."""

    pictures: tuple[Picture, ...]
    sizes: tuple[Size, ...]
    """What each picture becomes."""
    captions: tuple[str, ...]
    seed: int
    options: PicturesSpec

    @property
    def crops(self) -> int:
        """Different cuts per picture."""
        return self.options.random_crops if self.options.crop == "random" else 1

    @property
    def variants(self) -> int:
        """Variants per picture: each cut, and its mirror image."""
        return self.crops * (2 if self.options.flip else 1)

    @cached_property
    def groups(self) -> dict[Size, tuple[int, ...]]:
        """The numbers of the pictures of each size."""
        groups: dict[Size, list[int]] = {}
        for number, size in enumerate(self.sizes):
            groups.setdefault(size, []).append(number)
        return {size: tuple(numbers) for size, numbers in groups.items()}

    @property
    def masked(self) -> bool:
        """Whether any picture has a mask that is to be used."""
        return self.options.masks and any(picture.mask for picture in self.pictures)

    def window(self, number: int, variant: int) -> tuple[Cut, bool]:
        """Return the cut of a variant, in the upright picture, and whether it is then mirrored."""
        crop, flip = variant % self.crops, variant >= self.crops
        across, down = draws(self.seed, 2, number, crop).random(2) if self.crops > 1 else _CENTER
        return geometry.cut(self.pictures[number].size, self.sizes[number], across, down), flip

    def pixels(self, number: int, variant: int) -> Tensor:
        """Return a variant [3, H, W] between -1 and 1. Raises Unreadable."""
        window, flip = self.window(number, variant)
        values = torch.from_numpy(render(self.pictures[number].path, window, flip).copy())
        return values.permute(2, 0, 1).float() / 127.5 - 1

    def conditioning(self, number: int, variant: int) -> Tensor:
        """Return the six sizes [6] of a variant, see Cut.conditioning."""
        window, flip = self.window(number, variant)
        original = self.pictures[number].size
        seen = geometry.mirrored(window, original) if flip else window
        return torch.tensor(seen.conditioning(original))

    def mask(self, number: int, variant: int, shrink: int) -> Tensor:
        """Return the weights [1, h, w] of a variant in latents, `shrink` pixels each. Raises Unreadable."""
        width, height = self.sizes[number]
        path = self.pictures[number].mask
        if path is None:
            return torch.ones(1, height // shrink, width // shrink)
        window, flip = self.window(number, variant)
        values = torch.from_numpy(render(path, window, flip, "L").astype(np.float32) / 255)
        weights = torch.nn.functional.avg_pool2d(values[None, None], shrink)[0]
        return self.options.mask_floor + (1 - self.options.mask_floor) * weights


def collect(
    pictures: Sequence[Picture],
    captions: Sequence[str],
    sizes: Sequence[Size],
    options: PicturesSpec,
    seed: int,
) -> Collection:
    """Put each picture into the nearest of `sizes`."""
    fitted = tuple(geometry.nearest(picture.size, sizes) for picture in pictures)
    return Collection(tuple(pictures), fitted, tuple(captions), seed, options)
