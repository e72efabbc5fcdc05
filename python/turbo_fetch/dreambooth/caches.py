"""Pictures and captions encoded once: kept on disk under the fingerprint of all that they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from turbo_fetch.dreambooth.collection import Collection
from turbo_fetch.dreambooth.families import Conditioning, Family, Posterior
from turbo_fetch.dreambooth.sequence import Example
from turbo_fetch.dreambooth.store import Arrays, fingerprint, stored, weights_digest

CAPTIONS_AT_ONCE: Final = 16


@dataclass(frozen=True)
class CachedLatents:
    """The posterior of every variant of every picture of a collection; re-sampled at each use."""

    arrays: Arrays
    """By size: [pictures, variants, mean or deviation, C, h, w]."""
    rows: dict[int, tuple[str, int]]
    """Array and row of each picture."""

    def posterior(self, examples: Sequence[Example]) -> Posterior:
        """See examples.Latents."""
        chosen = []
        for example in examples:
            name, row = self.rows[example.picture]
            chosen.append(self.arrays[name][row, example.variant])
        values = torch.from_numpy(np.stack(chosen))
        return Posterior(values[:, 0], values[:, 1])


def cached_latents(family: Family, collection: Collection, folder: Path) -> CachedLatents:
    """Encode the collection, or take what is in `folder`. Raises OutputError, Unreadable."""
    groups = {f"{width}x{height}": numbers for (width, height), numbers in collection.groups.items()}
    channels, shrink = family.vae.config.latent_channels, family.vae_scale
    shapes = {
        f"{width}x{height}": (
            len(numbers),
            collection.variants,
            2,
            channels,
            height // shrink,
            width // shrink,
        )
        for (width, height), numbers in collection.groups.items()
    }
    name = fingerprint(
        weights_digest(family.vae),
        [picture.digest for picture in collection.pictures],
        collection.sizes,
        [collection.crops, collection.variants, collection.seed if collection.crops > 1 else None],
    )

    def fill(arrays: Arrays) -> None:
        for size, numbers in groups.items():
            for row, number in enumerate(numbers):
                for variant in range(collection.variants):
                    posterior = family.encode_pictures(collection.pixels(number, variant)[None])
                    arrays[size][row, variant, 0] = posterior.mean[0].cpu()
                    arrays[size][row, variant, 1] = posterior.deviation[0].cpu()

    arrays = stored(folder / f"latents-{name}", shapes, fill)
    rows = {number: (size, row) for size, numbers in groups.items() for row, number in enumerate(numbers)}
    return CachedLatents(arrays, rows)


@dataclass(frozen=True)
class Captions:
    """Captions as the denoiser is told them: encoded at each use, or once where `cached`."""

    family: Family
    arrays: Arrays | None = None
    rows: dict[str, int] = field(default_factory=dict)
    _recent: dict[tuple[str, ...], Conditioning] = field(default_factory=dict)

    def encode(self, captions: tuple[str, ...], device: torch.device) -> Conditioning:
        """Return the conditioning of captions on a device."""
        if self.arrays is None:
            return self.family.encode_captions(captions)
        if captions not in self._recent:
            if len(self._recent) >= CAPTIONS_AT_ONCE:
                self._recent.clear()
            rows = [self.rows[caption] for caption in captions]
            self._recent[captions] = {
                name: torch.from_numpy(array[rows]).to(device) for name, array in self.arrays.items()
            }
        return self._recent[captions]


@torch.no_grad()
def cached_captions(family: Family, captions: Sequence[str], folder: Path) -> Captions:
    """Encode the distinct captions, or take what is in `folder`. Raises OutputError."""
    distinct = sorted(set(captions))
    encoders = {name: weights_digest(module) for name, module in family.modules() if "text_encoder" in name}
    first = family.encode_captions(distinct[:1])
    shapes = {name: (len(distinct), *value.shape[1:]) for name, value in first.items()}

    def fill(arrays: Arrays) -> None:
        for start in range(0, len(distinct), CAPTIONS_AT_ONCE):
            encoded = family.encode_captions(distinct[start : start + CAPTIONS_AT_ONCE])
            for name, value in encoded.items():
                arrays[name][start : start + CAPTIONS_AT_ONCE] = value.float().cpu()

    arrays = stored(folder / f"captions-{fingerprint(encoders, distinct)}", shapes, fill)
    return Captions(family, arrays, {caption: row for row, caption in enumerate(distinct)})


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors as one along the batch; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
