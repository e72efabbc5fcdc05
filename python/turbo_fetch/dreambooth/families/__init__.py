"""Model families: find out which one a model is of, and load it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from torch import nn
from transformers.utils import logging as transformers_logging

from turbo_fetch.dreambooth.families import single_file
from turbo_fetch.dreambooth.families.block_swap import unswap_blocks
from turbo_fetch.dreambooth.families.family import Conditioning, Family, Posterior, Sides
from turbo_fetch.dreambooth.families.flux import Flux
from turbo_fetch.dreambooth.families.flux2 import Flux2Klein
from turbo_fetch.dreambooth.families.precision import DTYPES
from turbo_fetch.dreambooth.families.qwen_image import QwenImage
from turbo_fetch.dreambooth.families.sd import StableDiffusion
from turbo_fetch.dreambooth.families.sd3 import StableDiffusion3
from turbo_fetch.dreambooth.families.sdxl import StableDiffusionXL
from turbo_fetch.dreambooth.families.z_image import ZImage
from turbo_fetch.dreambooth.run_folder import MODEL_INDEX
from turbo_fetch.errors import ModelError

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
    "skeleton",
]

FAMILIES: Final[Mapping[str, type[Family]]] = {
    family.pipeline_name: family
    for family in (
        StableDiffusion,
        StableDiffusionXL,
        StableDiffusion3,
        Flux,
        Flux2Klein,
        QwenImage,
        ZImage,
    )
}
"""The adapter of each pipeline class that a `model_index.json` may name. A new family is a module and a word here."""

_WEIGHTS: Final = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)(-\d{5}-of-\d{5})?"
    r"(\.(?P<variant>[^.-]+))?(-\d{5}-of-\d{5})?\.(safetensors|bin)"
)
"""Names of files with weights, in parts or not."""


def family_of(base: str) -> type[Family]:
    """Return the family of the model at a path or hub id, by its `model_index.json`.

    Raises ModelError if there is none, or it names a pipeline of no known family.
    """
    path = Path(base)
    name = single_file.pipeline_of(path) if path.is_file() else str(_index(base).get("_class_name"))
    if name not in FAMILIES:
        raise ModelError(
            f"{base}: a {name}, which is of no known family; expected one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def sides_of(base: str) -> Sides:
    """Return which images the model at a path or hub id can make, by its configs. Raises ModelError."""
    adapter = family_of(base)
    if Path(base).is_file():
        configs = single_file.configs_of(Path(base))
        return adapter.sides(configs[adapter.denoiser_name], configs["vae"])
    return adapter.sides(*(_json(base, f"{part}/config.json") for part in (adapter.denoiser_name, "vae")))


def load(
    base: str,
    dtype: torch.dtype | Mapping[str, torch.dtype] = torch.float32,
    later: Collection[str] = (),
) -> Family:
    """Load the components of the model at a path or hub id, on the CPU. Raises ModelError.

    Types may be given by component, with `default`; those of `later` are without weights until `bring` loads them.
    """
    adapter = family_of(base)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    with _explained(base, adapter):
        pipeline, notes = _pipeline(base, dtype, adapter, _empty(base, later))
    pipeline.set_progress_bar_config(disable=True)
    family = adapter(pipeline)
    family.notes = notes
    return family


def bring(family: Family, base: str, name: str, dtype: torch.dtype) -> None:
    """Load a component that is without weights, on the CPU. Raises ModelError."""
    others = {key: value for key, value in family.pipeline.components.items() if key != name}
    with _explained(base, type(family)):
        pipeline, _ = _pipeline(base, dtype, type(family), others)
    setattr(family.pipeline, name, getattr(pipeline, name))


def let_go(family: Family, names: Iterable[str]) -> None:
    """Free the weights of components, which keep their configs."""
    family.make_whole()
    for name in names:
        module = getattr(family.pipeline, name)
        unswap_blocks(module)
        module.to("meta")


def is_empty(module: nn.Module) -> bool:
    """Return whether a component is without weights."""
    return next(module.parameters()).is_meta


@contextmanager
def _explained(base: str, adapter: type[Family]) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
        raise ModelError(
            f"{base}: cannot be loaded as a {adapter.name} model: {_first_line(error)}"
        ) from error


def _pipeline(
    base: str,
    dtype: torch.dtype | Mapping[str, torch.dtype],
    adapter: type[Family],
    there: Mapping[str, Any],
) -> tuple[Any, tuple[str, ...]]:
    """Load a pipeline around the components that are there already, and what to tell of it."""
    if not Path(base).is_file():
        return _from_folder(base, dtype, adapter, there), ()
    # diffusers reads a file in one type.
    whole = dtype if isinstance(dtype, torch.dtype) else torch.float32
    absent = _absent(single_file.configs_of(Path(base))["model_index"], adapter)
    pipeline, notes = single_file.load_pipeline(Path(base), whole, {**absent, **there, **adapter.not_loaded})
    if adapter.fp32_vae:
        # As published files hold it, in half, but computed in fp32.
        pipeline.vae.to(torch.float32)
    return pipeline, notes


def _from_folder(
    base: str,
    dtype: torch.dtype | Mapping[str, torch.dtype],
    adapter: type[Family],
    there: Mapping[str, Any],
) -> Any:
    """Load a diffusers folder or hub id, in whichever variant its weights are there."""
    types: Any = dtype if isinstance(dtype, torch.dtype) else dict(dtype)
    if adapter.fp32_vae:
        types = {**(types if isinstance(types, dict) else {"default": types}), "vae": torch.float32}
    given = {"dtype": types, **_absent(_index(base), adapter), **there, **adapter.not_loaded}
    folder = Path(base)
    if folder.is_dir():
        return DiffusionPipeline.from_pretrained(base, variant=variant_of(folder, _index(base)), **given)
    try:
        return DiffusionPipeline.from_pretrained(base, **given)
    except (OSError, ValueError) as error:
        if "no file named" not in str(error):
            raise
        return DiffusionPipeline.from_pretrained(base, variant="fp16", **given)


def variant_of(folder: Path, index: Mapping[str, Any]) -> str | None:
    """Return the variant of the weights in a diffusers folder, as in `model.fp16.safetensors`; None for plain names.

    A component that has plain names is loaded from those, whatever the variant of the others.
    """
    variants = set()
    for name in index:
        found = {_WEIGHTS.fullmatch(path.name) for path in (folder / name).glob("*") if path.is_file()}
        kinds = {match["variant"] for match in found if match is not None}
        if kinds and None not in kinds:
            variants |= kinds
    return min(variants, default=None)


def skeleton(base: str) -> Family:
    """Return the model at a path or hub id without its weights, on the device `meta`; only small files are read.

    Raises ModelError.
    """
    adapter = family_of(base)
    with _configs_in(base) as place:
        index = _index(place)
        names = [name for name, kind in index.items() if isinstance(kind, list)]
        components = _empty(place, [name for name in names if name not in adapter.not_loaded])
    absent: dict[str, Any] = {name: None for name in adapter.optional if name not in components}
    pipeline = getattr(diffusers, adapter.pipeline_name)
    return adapter(pipeline(**{**absent, **components, **adapter.not_loaded}))


def _empty(base: str, names: Iterable[str]) -> dict[str, Any]:
    """Return components without their weights. Raises ModelError."""
    names = list(names)
    if not names:
        return {}
    try:
        with _configs_in(base) as place:
            index = _index(place)
            return {
                name: None if index[name][0] is None else _made_empty(place, name, *index[name])
                for name in names
            }
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
        raise ModelError(f"{base}: its configuration cannot be read: {_first_line(error)}") from error


@contextmanager
def _configs_in(base: str) -> Iterator[str]:
    """Yield where the configs of a model lie as in a diffusers folder: for a single file, for as long as it lasts."""
    if Path(base).is_file():
        with single_file.config_folder(Path(base)) as folder:
            yield str(folder)
    else:
        yield base


def _made_empty(base: str, name: str, library: str, kind: str) -> Any:
    made: Any = getattr(import_module(library), kind)
    if not issubclass(made, nn.Module):
        return made.from_pretrained(base, subfolder=name)
    with torch.device("meta"):
        if library == "diffusers":
            return made.from_config(made.load_config(base, subfolder=name))
        return made(made.config_class.from_pretrained(base, subfolder=name))


def _absent(index: Mapping[str, Any], adapter: type[Family]) -> dict[str, None]:
    """Return the components that a model with this index does without, as arguments for the pipeline."""
    return {name: None for name in adapter.optional if (index.get(name) or [None])[0] is None}


def _index(base: str) -> Mapping[str, Any]:
    path = Path(base)
    if path.is_dir() and not (path / MODEL_INDEX).is_file():
        files = sorted(file.name for file in path.iterdir() if file.suffix in single_file.SUFFIXES)
        hint = f", or one of its files: {', '.join(files[:8])}" if files else ""
        raise ModelError(f"{base}: a folder without {MODEL_INDEX}; expected one that diffusers saved{hint}")
    return _json(base, MODEL_INDEX)


def _json(base: str, name: str) -> Mapping[str, Any]:
    """Return a file of a diffusers folder or hub id. Raises ModelError."""
    path = Path(base)
    try:
        file = path / name if path.is_dir() else Path(hf_hub_download(base, name))
        loaded: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return loaded
    except HFValidationError:
        raise ModelError(f"{base}: no such folder, and no hub id either; expected one of the two") from None
    except GatedRepoError:
        raise ModelError(
            f"{base}: gated; accept its terms on the hub and log in with `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        if not isinstance(error, LocalEntryNotFoundError):
            raise ModelError(f"{base}: no such folder, and the hub has no such diffusers model") from None
        raise _unreachable(base, error) from error
    except (OfflineModeIsEnabled, ConnectionError) as error:
        raise _unreachable(base, error) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{base}: {name} cannot be read: {_first_line(error)}") from error


def _unreachable(base: str, error: Exception) -> ModelError:
    return ModelError(
        f"{base}: no such folder, not in the local cache, and the hub cannot be reached: {_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
