"""The names that weights of a transformer have in single files, from those that diffusers gives them, and back.

A file may hold in one matrix what diffusers has in several: rows below rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

Names = Mapping[str, str]
"""Original names of modules by those in diffusers; modules with the same original name are one matrix, in this order.

An original name that ends in `.scale` is that of a weight itself.
"""
DIFFUSION_MODEL: Final = "model.diffusion_model."
"""Before the names of a denoiser's weights where a file holds more than it."""
_SCALE: Final = ".scale"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file names the weights of a transformer; what is not said has one name in both."""

    ends: Names = field(default_factory=dict)
    """Of modules outside of blocks."""
    blocks: Mapping[str, tuple[str, Names]] = field(default_factory=dict)
    """By the name of a list of blocks in diffusers: its original name, and those within each block."""
    swapped: frozenset[str] = frozenset()
    """Modules, as diffusers names them, that hold scale and shift, which files hold the other way round."""

    def original(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a transformer's weights as a file holds them."""
        return {
            name: torch.cat([self._swap(part, weights[part]) for part in parts])
            if len(parts) > 1
            else self._swap(parts[0], weights[parts[0]])
            for name, parts in self.parts(weights).items()
        }

    def read(
        self, shapes: Mapping[str, torch.Size], weight_of: Callable[[str], Tensor]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights in a file by their names in diffusers, which have these shapes there.

        Raises ValueError for one of another shape, and what `weight_of` raises.
        """
        for name, parts in self.parts(shapes).items():
            whole, rows = weight_of(name), [shapes[part][0] for part in parts]
            expected = (sum(rows), *shapes[parts[0]][1:])
            if whole.shape != expected:
                raise ValueError(f"{name} is {tuple(whole.shape)}, expected {expected}")
            pieces = whole.split(rows) if len(parts) > 1 else [whole]
            for part, piece in zip(parts, pieces, strict=True):
                # Pieces of one matrix cannot be saved beside each other.
                yield part, self._swap(part, piece.clone() if len(parts) > 1 else piece)

    def parts(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return for each original name those in diffusers that are its rows, from top to bottom."""
        places: dict[str, list[tuple[int, str]]] = {}
        for name in names:
            place, original = self._named(name)
            places.setdefault(original, []).append((place, name))
        return {original: [name for _, name in sorted(found)] for original, found in places.items()}

    def _named(self, name: str) -> tuple[int, str]:
        """Return which rows of a matrix a weight is, and the original name of that."""
        module, _, kind = name.rpartition(".")
        block = re.fullmatch(r"(\w+)\.(\d+)\.(.+)", module)
        prefix, inner, names = "", module, self.ends
        if block is not None and block[1] in self.blocks:
            inner, (original_block, names) = block[3], self.blocks[block[1]]
            prefix = f"{original_block}.{block[2]}."
        original = names.get(inner, inner)
        place = list(names).index(inner) if inner in names else 0
        if original.endswith(_SCALE):
            return place, prefix + original
        return place, f"{prefix}{original}.{kind}" if original else prefix + kind

    def _swap(self, name: str, weight: Tensor) -> Tensor:
        if name.rpartition(".")[0] not in self.swapped:
            return weight
        one, other = weight.chunk(2)
        return torch.cat([other, one])
