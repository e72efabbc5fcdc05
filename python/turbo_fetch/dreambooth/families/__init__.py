"""Model families: which one a model is of (`registry`), and models of them, loaded (`loading`)."""

from __future__ import annotations

from turbo_fetch.dreambooth.families.family import Conditioning, Family
from turbo_fetch.dreambooth.families.latent_space import Posterior, Sides
from turbo_fetch.dreambooth.families.loading import bring, is_empty, let_go, load, skeleton
from turbo_fetch.dreambooth.families.precision import DTYPES
from turbo_fetch.dreambooth.families.registry import FAMILIES, family_of, sides_of, transformer_file_at

__all__ = [
    "DTYPES",
    "FAMILIES",
    "Conditioning",
    "Family",
    "Posterior",
    "Sides",
    "bring",
    "family_of",
    "is_empty",
    "let_go",
    "load",
    "sides_of",
    "skeleton",
    "transformer_file_at",
]
