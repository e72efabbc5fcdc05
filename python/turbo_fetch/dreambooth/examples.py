"""From positions to batches: what a data loader hands to the trainer, cached or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from turbo_fetch.dreambooth.collection import Collection
from turbo_fetch.dreambooth.families import Posterior
from turbo_fetch.dreambooth.sequence import Example, ExampleSequence


@dataclass(frozen=True, slots=True)
class Examples:
    """B examples of one size; either `posterior` or `pixels` [B, 3, H, W] is there."""

    captions: tuple[str, ...]
    sizes: Tensor
    """[B, 6], see Cut.conditioning."""
    posterior: Posterior | None = None
    pixels: Tensor | None = None
    mask: Tensor | None = None
    """[B, 1, h, w], in latents."""

    def to(self, device: torch.device) -> Examples:
        """Return the same on a device."""
        return replace(
            self,
            sizes=_to(self.sizes, device),
            pixels=None if self.pixels is None else _to(self.pixels, device),
            mask=None if self.mask is None else _to(self.mask, device),
            posterior=None
            if self.posterior is None
            else Posterior(_to(self.posterior.mean, device), _to(self.posterior.deviation, device)),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward and backward pass learns from: its place in the run, and examples of both kinds."""

    position: int
    subject: Examples
    prior: Examples | None

    def to(self, device: torch.device) -> Batch:
        """Return the same on a device."""
        prior = None if self.prior is None else self.prior.to(device)
        return Batch(self.position, self.subject.to(device), prior)


class Latents(Protocol):
    """Where encoded pictures come from, if they are cached."""

    def posterior(self, examples: Sequence[Example]) -> Posterior:
        """Return the posteriors of examples of one size."""


@dataclass(frozen=True)
class Kind:
    """The examples of one kind, subject or class, in their order."""

    collection: Collection
    sequence: ExampleSequence
    shrink: int
    """Pixels per latent along a side."""
    latents: Latents | None = None

    def examples(self, position: int) -> Examples:
        """Return the batch at a position. Raises Unreadable if a picture has changed since preflight."""
        return self.load(self.sequence.batch(position))

    def load(self, chosen: Sequence[Example]) -> Examples:
        """Return examples of one size."""
        of = self.collection
        captions = tuple("" if example.silent else of.captions[example.picture] for example in chosen)
        keys = [(example.picture, example.variant) for example in chosen]
        return Examples(
            captions,
            torch.stack([of.conditioning(*key) for key in keys]),
            posterior=self.latents.posterior(chosen) if self.latents else None,
            pixels=None if self.latents else torch.stack([of.pixels(*key) for key in keys]),
            mask=torch.stack([of.mask(*key, self.shrink) for key in keys]) if of.masked else None,
        )


@dataclass(frozen=True)
class Batches(Dataset[Batch]):
    """The batches of one device: number `rank` of each `world`."""

    subject: Kind
    prior: Kind | None
    rank: int = 0
    world: int = 1

    def __getitem__(self, position: int) -> Batch:
        place = position * self.world + self.rank
        prior = self.prior.examples(place) if self.prior else None
        return Batch(position, self.subject.examples(place), prior)


@dataclass(frozen=True)
class Validation(Dataset[Batch]):
    """Pictures that are not learned, each as it is, one per batch."""

    kind: Kind

    def __getitem__(self, number: int) -> Batch:
        return Batch(number, self.kind.load([Example(number, 0, False)]), None)

    def __len__(self) -> int:
        return len(self.kind.collection.pictures)


@dataclass(frozen=True)
class Positions(Sampler[int]):
    """The positions of a run from `start` on; its length is that of the whole run, as Lightning counts."""

    start: int
    stop: int

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop


class Loader(DataLoader[Batch]):
    """A loader that begins where its run does, which is how Lightning knows that it can be resumed."""

    def __init__(self, batches: Batches, positions: Positions, workers: int) -> None:
        super().__init__(
            batches,
            batch_size=None,
            sampler=positions,
            num_workers=workers,
            # Of its own, so that making an iterator draws nothing from the generator of the model.
            generator=torch.Generator().manual_seed(0),
            persistent_workers=False,
        )

    def state_dict(self) -> dict[str, int]:
        """Return nothing: the position is the trainer's step."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take nothing."""


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)
