"""Images and captions encoded once: kept on disk under the fingerprint of all that they depend on."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from turbo_fetch.dreambooth.data.image_set import Example, ImageSet
from turbo_fetch.dreambooth.families import Conditioning, Family, Posterior
from turbo_fetch.dreambooth.families.models import module_hash
from turbo_fetch.storage.disk import replace_with, sync_one
from turbo_fetch.storage.failures import explained

CAPTIONS_AT_ONCE: Final = 16
DIGESTS: Final = "sha256.json"

Arrays = dict[str, NDArray[np.float32]]
Advance = Callable[[int, int], None]
"""Is called with how many are encoded, and of how many."""


@dataclass(frozen=True)
class CachedLatents:
    """The posterior of every variant of every image of a image_set; re-sampled at each use."""

    arrays: Arrays
    """By size: [images, variants, mean or deviation, C, h, w]."""
    rows: dict[int, tuple[str, int]]
    """Array and row of each image."""

    def posterior(self, examples: Sequence[Example]) -> Posterior:
        """See examples.Latents."""
        chosen = []
        for example in examples:
            name, row = self.rows[example.image]
            chosen.append(self.arrays[name][row, example.variant])
        values = torch.from_numpy(np.stack(chosen))
        return Posterior(values[:, 0], values[:, 1])


def cached_latents(
    family: Family, image_set: ImageSet, folder: Path, note: Callable[[str], None], advance: Advance
) -> CachedLatents:
    """Encode the image_set, or take what is in `folder`. Raises OutputError, Unreadable, and what `advance` raises."""
    groups = {f"{width}x{height}": numbers for (width, height), numbers in image_set.groups.items()}
    shapes = {
        f"{width}x{height}": (len(numbers), image_set.variants, 2, *family.latent_shape(width, height))
        for (width, height), numbers in image_set.groups.items()
    }
    name = fingerprint(
        module_hash(family.vae),
        [image.digest for image in image_set.images],
        image_set.sizes,
        [image_set.crops, image_set.variants, image_set.seed if image_set.crops > 1 else None],
        *([tiled] if (tiled := sorted(size for size in image_set.groups if family.tiles(*size))) else []),
    )

    def fill(arrays: Arrays) -> None:
        done, total = 0, len(image_set.images) * image_set.variants
        for size, numbers in groups.items():
            for row, number in enumerate(numbers):
                for variant in range(image_set.variants):
                    posterior = family.encode_images(image_set.pixels(number, variant)[None])
                    arrays[size][row, variant, 0] = posterior.mean[0].cpu()
                    arrays[size][row, variant, 1] = posterior.deviation[0].cpu()
                    done += 1
                    advance(done, total)

    arrays = stored(folder / f"latents-{name}", shapes, fill, note)
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
            values = {name: torch.from_numpy(array[rows]) for name, array in self.arrays.items()}
            self._recent[captions] = {
                # One number for each caption is how many tokens it has, by which tensors are shaped.
                name: value if value.ndim == 1 else value.to(device)
                for name, value in values.items()
            }
        return self._recent[captions]


@torch.no_grad()
def cached_captions(
    family: Family, captions: Sequence[str], folder: Path, note: Callable[[str], None], advance: Advance
) -> Captions:
    """Encode the distinct captions, or take what is in `folder`. Raises OutputError, and what `advance` raises."""
    distinct = sorted(set(captions))
    encoders = {name: module_hash(module) for name, module in family.modules() if "text_encoder" in name}
    longest = family.encode_captions([max(distinct, key=family.token_count)])
    shapes = {name: (len(distinct), *value.shape[1:]) for name, value in longest.items()}

    def fill(arrays: Arrays) -> None:
        for start in range(0, len(distinct), CAPTIONS_AT_ONCE):
            encoded = family.encode_captions(distinct[start : start + CAPTIONS_AT_ONCE])
            for name, value in encoded.items():
                place = (slice(start, start + len(value)), *map(slice, value.shape[1:]))
                arrays[name][place] = value.float().cpu()
            advance(min(start + CAPTIONS_AT_ONCE, len(distinct)), len(distinct))

    name = fingerprint(encoders, distinct, family.facts.zero_empty_prompt)
    arrays = stored(folder / f"captions-{name}", shapes, fill, note)
    return Captions(family, arrays, {caption: row for row, caption in enumerate(distinct)})


def fingerprint(*parts: Any) -> str:
    """Return a name for what can be written as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def stored(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    fill: Callable[[Arrays], None],
    note: Callable[[str], None],
) -> Arrays:
    """Return the arrays in `folder`, read only; if they are not there as they were made, `fill` computes them first.

    What `fill` leaves behind when it is interrupted is not used again. Raises OutputError if the disk is full.
    """
    if not _is_whole(folder, shapes):
        # Of this process: devices that train together fill the same cache at the same time.
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            if folder.exists():
                note(f"{folder}: a damaged cache, which is made again")
                folder.rename(unfinished)
                shutil.rmtree(unfinished)
            _write(unfinished, shapes, fill)
            try:
                unfinished.rename(folder)
            except OSError as error:
                if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in shapes}


def _is_whole(folder: Path, names: Iterable[str]) -> bool:
    """Return whether the files in `folder` have the digests with which they were written."""
    try:
        digests = json.loads((folder / DIGESTS).read_bytes())
        return all(_digest(folder / f"{name}.npy") == digests[name] for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(folder: Path, shapes: Mapping[str, tuple[int, ...]], fill: Callable[[Arrays], None]) -> None:
    arrays: Arrays = {}
    with explained(str(folder), sum(4 * math.prod(shape) for shape in shapes.values())):
        folder.mkdir(parents=True)
        for name, shape in shapes.items():
            path = folder / f"{name}.npy"
            arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            _take_space(path)
    fill(arrays)
    with explained(str(folder)):
        for name, array in arrays.items():
            assert isinstance(array, np.memmap)
            array.flush()
            sync_one(folder / f"{name}.npy")
        digests = {name: _digest(folder / f"{name}.npy") for name in arrays}
        replace_with(folder / DIGESTS, json.dumps(digests).encode())


def _take_space(path: Path) -> None:
    """Take the disk space of a mapped file now: a page that finds the disk full later kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
