"""From positions to batches: what a data loader hands to the trainer, cached or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from turbo_fetch.dreambooth.data.image_set import Example, ExampleSequence, ImageSet, Turns
from turbo_fetch.dreambooth.families import Posterior


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

    @property
    def shape(self) -> torch.Size:
        """Shape of one example."""
        tensor = self.pixels if self.posterior is None else self.posterior.mean
        assert tensor is not None
        return tensor.shape[1:]

    def to(self, device: torch.device) -> Examples:
        """Return the same on a device."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor]) -> Examples:
        """Return the same with all tensors changed."""
        known = self.posterior
        return replace(
            self,
            sizes=change(self.sizes),
            pixels=None if self.pixels is None else change(self.pixels),
            mask=None if self.mask is None else change(self.mask),
            posterior=None if known is None else Posterior(change(known.mean), change(known.deviation)),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward and backward pass learns from: its place in the run, and examples of both concepts."""

    position: int
    subject: Examples
    prior: Examples | None

    def to(self, device: torch.device) -> Batch:
        """Return the same on a device."""
        prior = None if self.prior is None else self.prior.to(device)
        return Batch(self.position, self.subject.to(device), prior)

    def pin_memory(self) -> Batch:
        """Return the same in memory from which a GPU copies by itself; PyTorch's loader asks for it."""
        prior = None if self.prior is None else self.prior.each(Tensor.pin_memory)
        return Batch(self.position, self.subject.each(Tensor.pin_memory), prior)

    def passes(self) -> Iterator[Examples]:
        """Yield subject and class as one if they have the same size, else one after the other."""
        if self.prior is None:
            yield self.subject
        elif self.subject.shape != self.prior.shape:
            yield self.subject
            yield self.prior
        else:
            yield _together(self.subject, self.prior)


class Latents(Protocol):
    """Where encoded images come from, if they are cached."""

    def posterior(self, examples: Sequence[Example]) -> Posterior:
        """Return the posteriors of examples of one size."""


@dataclass(frozen=True)
class Concept:
    """The examples of one concept, subject or class, in their order."""

    image_set: ImageSet
    sequence: ExampleSequence
    shrink: int
    """Pixels per latent along a side."""
    latents: Latents | None = None

    def examples(self, position: int) -> Examples:
        """Return the batch at a position. Raises Unreadable if an image has changed since preflight."""
        return self.load(self.sequence.batch(position))

    def load(self, chosen: Sequence[Example]) -> Examples:
        """Return examples of one size."""
        of = self.image_set
        captions = tuple("" if example.without_caption else of.captions[example.image] for example in chosen)
        keys = [(example.image, example.variant) for example in chosen]
        return Examples(
            captions,
            torch.stack([of.conditioning(*key) for key in keys]),
            posterior=self.latents.posterior(chosen) if self.latents else None,
            pixels=None if self.latents else torch.stack([of.pixels(*key) for key in keys]),
            mask=torch.stack([of.mask(*key, self.shrink) for key in keys]) if of.masked else None,
        )


@dataclass(frozen=True)
class SubjectExamples:
    """All examples of one subject: its own, those of its class, and those that are held out."""

    identifier: str
    subject: Concept
    prior: Concept | None = None
    validation: Concept | None = None

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """All that there are."""
        return tuple(filter(None, (self.subject, self.prior, self.validation)))


@dataclass(frozen=True)
class Batches(Dataset[Batch]):
    """The batches of one device, number `rank` of each `world`: each of one subject, as `turns` says."""

    subjects: Sequence[SubjectExamples]
    turns: Turns
    rank: int = 0
    world: int = 1

    def __getitem__(self, position: int) -> Batch:
        chosen, place = self.turns.at(position * self.world + self.rank)
        examples = self.subjects[chosen]
        prior = examples.prior.examples(place) if examples.prior else None
        return Batch(position, examples.subject.examples(place), prior)


@dataclass(frozen=True)
class Validation(Dataset[Batch]):
    """Images that are held out, each as it is, one per batch, subject after subject."""

    concepts: Mapping[str, Concept]
    """By identifier."""

    def __getitem__(self, number: int) -> Batch:
        concept, image = self._places[number][1:]
        return Batch(number, concept.load([Example(image, 0, False)]), None)

    def __len__(self) -> int:
        return len(self._places)

    def identifier(self, number: int) -> str:
        """Return of which subject a batch is."""
        return self._places[number][0]

    @cached_property
    def _places(self) -> list[tuple[str, Concept, int]]:
        return [
            (identifier, concept, image)
            for identifier, concept in self.concepts.items()
            for image in range(len(concept.image_set.images))
        ]


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

    def __init__(self, batches: Batches, positions: Positions, workers: int, pinned: bool = False) -> None:
        """`pinned` puts batches where a GPU fetches them beside its work, which is worth it for one alone."""
        super().__init__(
            batches,
            batch_size=None,
            sampler=positions,
            num_workers=workers,
            pin_memory=pinned,
            # Of its own, so that making an iterator draws nothing from the generator of the model.
            generator=torch.Generator().manual_seed(0),
            persistent_workers=False,
        )

    def state_dict(self) -> dict[str, int]:
        """Return nothing: the position is the trainer's step."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take nothing."""


def _together(subject: Examples, prior: Examples) -> Examples:
    halves = (subject, prior)
    posteriors = [half.posterior for half in halves if half.posterior is not None]
    pixels = [half.pixels for half in halves if half.pixels is not None]
    return Examples(
        subject.captions + prior.captions,
        torch.cat([half.sizes for half in halves]),
        Posterior(
            *(torch.cat(values) for values in zip(*((p.mean, p.deviation) for p in posteriors), strict=True))
        )
        if posteriors
        else None,
        torch.cat(pixels) if pixels else None,
        _masks(halves),
    )


def _masks(halves: tuple[Examples, Examples]) -> Tensor | None:
    known = next((half.mask for half in halves if half.mask is not None), None)
    if known is None:
        return None
    plain = (known.new_ones(len(half.captions), *known.shape[1:]) for half in halves)
    return torch.cat(
        [ones if half.mask is None else half.mask for half, ones in zip(halves, plain, strict=True)]
    )
