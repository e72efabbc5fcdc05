"""The families that are known, and of which of them a model is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from turbo_fetch.dreambooth.families import single_file, transformer_file
from turbo_fetch.dreambooth.families.family import Family
from turbo_fetch.dreambooth.families.flux import Flux
from turbo_fetch.dreambooth.families.flux2 import Flux2Dev, Flux2Klein
from turbo_fetch.dreambooth.families.latent_space import Sides
from turbo_fetch.dreambooth.families.qwen_image import QwenImage
from turbo_fetch.dreambooth.families.sd import StableDiffusion
from turbo_fetch.dreambooth.families.sd3 import StableDiffusion3
from turbo_fetch.dreambooth.families.sdxl import StableDiffusionXL
from turbo_fetch.dreambooth.families.transformer_file import TransformerFile
from turbo_fetch.dreambooth.families.z_image import ZImage
from turbo_fetch.dreambooth.model_files import index_of, json_of
from turbo_fetch.errors import ModelError

FAMILIES: Final[Mapping[str, type[Family]]] = {
    family.pipeline_name: family
    for family in (
        StableDiffusion,
        StableDiffusionXL,
        StableDiffusion3,
        Flux,
        # Its files have all that those of Klein are known by, and more.
        Flux2Dev,
        Flux2Klein,
        QwenImage,
        ZImage,
    )
}
"""The adapter of each pipeline class that a `model_index.json` may name. A new family is a module and a word here."""


def family_of(base: str) -> type[Family]:
    """Return the family of the model at a path or hub id, by its `model_index.json`.

    Raises ModelError if there is none, or it names a pipeline of no known family.
    """
    path = Path(base)
    if not path.is_file():
        name = str(index_of(base).get("_class_name"))
    elif (held := transformer_file_at(base)) is not None:
        return held.family
    else:
        name = single_file.pipeline_of(path)
    if name not in FAMILIES:
        raise ModelError(
            f"{base}: a {name}, which is of no known family; expected one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def transformer_file_at(base: str) -> TransformerFile | None:
    """Return what a file with a transformer of its own holds; None for any other model. Raises ModelError."""
    path = Path(base)
    return transformer_file.find(path, FAMILIES.values()) if path.is_file() else None


def sides_of(base: str) -> Sides:
    """Return which images the model at a path or hub id can make, by its configs. Raises ModelError."""
    adapter, held = family_of(base), transformer_file_at(base)
    base = base if held is None else held.home
    if Path(base).is_file():
        configs = single_file.configs_of(Path(base))
        return adapter.sides(configs[adapter.denoiser_name], configs["vae"])
    return adapter.sides(*(json_of(base, f"{part}/config.json") for part in (adapter.denoiser_name, "vae")))
