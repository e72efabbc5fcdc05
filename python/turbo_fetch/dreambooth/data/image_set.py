"""The images of one concept, subject or class: how they are cut and varied, and which come when.

All of it is a pure function of seed and position, so that a run can resume anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from turbo_fetch.dreambooth.data.decoding import Size
from turbo_fetch.dreambooth.data.images import Cut, ImageFile, cut, mirrored, nearest, render
from turbo_fetch.spec.train_tables import PicturesSpec

_CENTER: Final = (0.5, 0.5)


def draws(seed: int, *position: int) -> np.random.Generator:
    """Return the random numbers that belong to a seed and a position, whatever was drawn before."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *position])))


@dataclass(frozen=True)
class ImageSet:
    """Images with a size and a caption each, and how they are varied."""

    images: tuple[ImageFile, ...]
    sizes: tuple[Size, ...]
    """What each image becomes."""
    captions: tuple[str, ...]
    seed: int
    options: PicturesSpec

    @property
    def crops(self) -> int:
        """Different cuts per image."""
        return self.options.random_crops if self.options.crop == "random" else 1

    @property
    def variants(self) -> int:
        """Variants per image: each cut, and its mirror image."""
        return self.crops * (2 if self.options.flip else 1)

    @cached_property
    def groups(self) -> dict[Size, tuple[int, ...]]:
        """The numbers of the images of each size."""
        groups: dict[Size, list[int]] = {}
        for number, size in enumerate(self.sizes):
            groups.setdefault(size, []).append(number)
        return {size: tuple(numbers) for size, numbers in groups.items()}

    @property
    def masked(self) -> bool:
        """Whether any image has a mask that is to be used."""
        return self.options.masks and any(image.mask for image in self.images)

    def window(self, number: int, variant: int) -> tuple[Cut, bool]:
        """Return the cut of a variant, in the upright image, and whether it is then mirrored."""
        crop, flip = variant % self.crops, variant >= self.crops
        across, down = draws(self.seed, 2, number, crop).random(2) if self.crops > 1 else _CENTER
        return cut(self.images[number].size, self.sizes[number], across, down), flip

    def pixels(self, number: int, variant: int) -> Tensor:
        """Return a variant [3, H, W] between -1 and 1. Raises Unreadable."""
        window, flip = self.window(number, variant)
        values = torch.from_numpy(render(self.images[number].path, window, flip).copy())
        return values.permute(2, 0, 1).float() / 127.5 - 1

    def conditioning(self, number: int, variant: int) -> Tensor:
        """Return the six sizes [6] of a variant, see Cut.conditioning."""
        window, flip = self.window(number, variant)
        original = self.images[number].size
        seen = mirrored(window, original) if flip else window
        return torch.tensor(seen.conditioning(original))

    def mask(self, number: int, variant: int, shrink: int) -> Tensor:
        """Return the weights [1, h, w] of a variant in latents, `shrink` pixels each. Raises Unreadable."""
        width, height = self.sizes[number]
        path = self.images[number].mask
        if path is None:
            return torch.ones(1, height // shrink, width // shrink)
        window, flip = self.window(number, variant)
        values = torch.from_numpy(render(path, window, flip, is_mask=True).astype(np.float32) / 255)
        weights = torch.nn.functional.avg_pool2d(values[None, None], shrink)[0]
        return self.options.mask_floor + (1 - self.options.mask_floor) * weights


def make_image_set(
    images: Sequence[ImageFile],
    captions: Sequence[str],
    sizes: Sequence[Size],
    options: PicturesSpec,
    seed: int,
) -> ImageSet:
    """Put each image into the nearest of `sizes`."""
    fitted = tuple(nearest(image.size, sizes) for image in images)
    return ImageSet(tuple(images), fitted, tuple(captions), seed, options)


class Example(NamedTuple):
    """An image by its number, which of its variants, and whether its caption is left out."""

    image: int
    variant: int
    without_caption: bool


@dataclass(frozen=True)
class ExampleSequence:
    """An endless sequence of batches, each of images of one bucket.

    One round is every image of every bucket once, in random order; a bucket that does not divide into batches
    is filled up from its beginning.
    """

    seed: int
    groups: tuple[tuple[int, ...], ...]
    """Numbers of the images of each bucket; none is empty."""
    batch_size: int
    variants: int = 1
    caption_dropout: float = 0.0
    _round: dict[int, list[NDArray[np.int64]]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def batches_per_round(self) -> int:
        """How many batches a round has."""
        return sum(-(-len(group) // self.batch_size) for group in self.groups)

    def batch(self, position: int) -> list[Example]:
        """Return the batch at a position."""
        number, offset = divmod(position, self.batches_per_round)
        random = draws(self.seed, 1, position)
        images = self._batches(number)[offset]
        variants = random.integers(self.variants, size=len(images))
        without_caption = random.random(len(images)) < self.caption_dropout
        return [
            Example(int(p), int(v), bool(s))
            for p, v, s in zip(images, variants, without_caption, strict=True)
        ]

    def _batches(self, number: int) -> Sequence[NDArray[np.int64]]:
        if number not in self._round:
            self._round.clear()
            self._round[number] = self._shuffled(number)
        return self._round[number]

    def _shuffled(self, number: int) -> list[NDArray[np.int64]]:
        random = draws(self.seed, 0, number)
        batches = []
        for group in self.groups:
            order = random.permutation(np.asarray(group, dtype=np.int64))
            order = np.resize(order, -(-len(group) // self.batch_size) * self.batch_size)
            batches += np.split(order, len(order) // self.batch_size)
        return [batches[index] for index in random.permutation(len(batches))]


@dataclass(frozen=True)
class Turns:
    """Whose batch comes when: in each round that of each subject as often as its weight says, in random order."""

    seed: int
    weights: tuple[int, ...]

    def at(self, position: int) -> tuple[int, int]:
        """Return whose turn a position is, and how many it had before."""
        if len(self.weights) == 1:
            return 0, position
        number, offset = divmod(position, sum(self.weights))
        everyone = np.repeat(np.arange(len(self.weights)), self.weights)
        order = draws(self.seed, 7, number).permutation(everyone)
        chosen = int(order[offset])
        return chosen, number * self.weights[chosen] + int((order[:offset] == chosen).sum())
