"""Which examples come when: a pure function of seed and position, so that a run can go on anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Example(NamedTuple):
    """A picture by its number, which of its variants, and whether its caption is left out."""

    picture: int
    variant: int
    silent: bool


def draws(seed: int, *position: int) -> np.random.Generator:
    """Return the random numbers that belong to a seed and a position, whatever was drawn before."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *position])))


@dataclass(frozen=True)
class ExampleSequence:
    """An endless sequence of batches, each of pictures of one bucket.

    One round is every picture of every bucket once, in random order; a bucket that does not divide into batches
    is filled up from its beginning.
    """

    seed: int
    groups: tuple[tuple[int, ...], ...]
    """Numbers of the pictures of each bucket; none is empty."""
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
        pictures = self._batches(number)[offset]
        variants = random.integers(self.variants, size=len(pictures))
        silent = random.random(len(pictures)) < self.caption_dropout
        return [Example(int(p), int(v), bool(s)) for p, v, s in zip(pictures, variants, silent, strict=True)]

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
