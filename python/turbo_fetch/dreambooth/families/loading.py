"""A model loaded, as a whole or part by part, each straight in its type; or without its weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from turbo_fetch.dreambooth.families import single_file
from turbo_fetch.dreambooth.families.block_swap import unswap_blocks
from turbo_fetch.dreambooth.families.configs import without_weights
from turbo_fetch.dreambooth.families.family import Family
from turbo_fetch.dreambooth.families.registry import family_of, transformer_file_at
from turbo_fetch.dreambooth.families.transformer_file import TransformerFile
from turbo_fetch.dreambooth.model_files import first_line, index_of
from turbo_fetch.dreambooth.run_folder import MODEL_INDEX
from turbo_fetch.errors import ModelError, TurboFetchError

CONFIG: Final = "config.json"
_WEIGHTS: Final = re.compile(
    r"(diffusion_pytorch_model|pytorch_model|model)(-\d{5}-of-\d{5})?"
    r"(\.(?P<variant>[^.-]+))?(-\d{5}-of-\d{5})?\.(safetensors|bin)"
)
"""Names of files with weights, in parts or not."""


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
    with _explained(_unloadable(base, adapter)):
        pipeline, notes = _pipeline(base, dtype, adapter, _empty(base, later))
        _settle_tokenizers(pipeline)
        _check_filled(pipeline, later)
        _check_parts_named(pipeline, adapter)
    pipeline.set_progress_bar_config(disable=True)
    family = adapter(pipeline)
    family.notes = notes
    return family


def _settle_tokenizers(pipeline: Any) -> None:
    """Have tokenizers read as much as their encoders. Raises ValueError for one whose files are missing.

    transformers makes one without words of a folder without a vocabulary.
    """
    for name, tokenizer in pipeline.components.items():
        if not name.startswith("tokenizer") or tokenizer is None:
            continue
        # One that comes with what prepares images.
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
            raise ValueError(
                f"its {name} has no vocabulary; expected tokenizer.json, or vocab.json and merges.txt"
            )
        encoder = getattr(pipeline, name.replace("tokenizer", "text_encoder"), None)
        most = getattr(getattr(encoder, "config", None), "max_position_embeddings", None)
        if most is not None and tokenizer.model_max_length > most:
            # Said in a file that may be missing.
            tokenizer.model_max_length = most


def _check_filled(pipeline: Any, others: Collection[str]) -> None:
    """Raise ValueError for a weight that no file has, but of `others`: diffusers leaves it without values."""
    for name, part in pipeline.components.items():
        for key, weight in (
            part.named_parameters() if isinstance(part, nn.Module) and name not in others else ()
        ):
            if weight.is_meta:
                raise ValueError(f"its {name} has no {key}")


def check_files(base: str) -> None:
    """Raise ModelError for a component without a config or weights, if the model is a diffusers folder."""
    adapter = family_of(base)
    if Path(base).is_dir():
        with _explained(_unloadable(base, adapter)):
            _check_parts(Path(base), adapter.not_loaded)


def _check_parts_named(pipeline: Any, adapter: type[Family]) -> None:
    """Raise ValueError for a component that the model's index has as null, and the family does not do without."""
    for name in (adapter.denoiser_name, "vae", "scheduler", *adapter.text_encoder_names):
        if getattr(pipeline, name) is None and name not in adapter.optional:
            raise ValueError(f"its {MODEL_INDEX} has no {name}")


def bring(family: Family, base: str, name: str, dtype: torch.dtype) -> None:
    """Load a component that is without weights, on the CPU. Raises ModelError."""
    others = {key: value for key, value in family.pipeline.components.items() if key != name}
    with _explained(_unloadable(base, type(family))):
        pipeline, _ = _pipeline(base, dtype, type(family), others)
        _check_filled(pipeline, others)
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
def _explained(what: str) -> Iterator[None]:
    """Turn whatever damaged files make the readers of three libraries raise into a ModelError that says `what`."""
    try:
        yield
    except TurboFetchError:
        raise
    except UnpicklingError as error:
        raise ModelError(
            f"{what}: one of its .bin files holds more than weights, which could run any program when it is loaded; "
            "expected it as .safetensors"
        ) from error
    except Exception as error:
        raise ModelError(f"{what}: {first_line(error)}") from error


def _unloadable(base: str, adapter: type[Family]) -> str:
    return f"{base}: cannot be loaded as a {adapter.name} model"


def _pipeline(
    base: str,
    dtype: torch.dtype | Mapping[str, torch.dtype],
    adapter: type[Family],
    there: Mapping[str, Any],
) -> tuple[Any, tuple[str, ...]]:
    """Load a pipeline around the components that are there already, and what to tell of it."""
    if (held := transformer_file_at(base)) is not None:
        return _from_transformer_file(held, dtype, there), tuple(held.notes)
    if not Path(base).is_file():
        return _from_folder(base, dtype, adapter, there), ()
    types = _types(dtype, adapter)
    absent = _absent(single_file.configs_of(Path(base))["model_index"], adapter)
    given = {**absent, **there, **adapter.not_loaded}
    return single_file.load_pipeline(Path(base), lambda name: types.get(name, types["default"]), given)


def _types(dtype: torch.dtype | Mapping[str, torch.dtype], adapter: type[Family]) -> dict[str, torch.dtype]:
    """Return the type of each component that is not of the type `default`, and that."""
    types = {"default": dtype} if isinstance(dtype, torch.dtype) else {"default": torch.float32, **dtype}
    return types | {"vae": torch.float32} if adapter.fp32_vae else types


def _from_transformer_file(
    held: TransformerFile, dtype: torch.dtype | Mapping[str, torch.dtype], there: Mapping[str, Any]
) -> Any:
    """Load what a file holds, and around it the rest of the model."""
    types = _types(dtype, held.family)
    read = {
        name: held.read(name, types.get(name, types["default"])) for name in held.parts if name not in there
    }
    pipeline = _from_folder(held.home, dtype, held.family, {**read, **there})
    held.add_words(pipeline)
    return pipeline


def _from_folder(
    base: str,
    dtype: torch.dtype | Mapping[str, torch.dtype],
    adapter: type[Family],
    there: Mapping[str, Any],
) -> Any:
    """Load a diffusers folder or hub id, in whichever variant its weights are there."""
    types = _types(dtype, adapter)
    given: dict[str, Any] = {
        "dtype": types,
        **_absent(index_of(base), adapter),
        **there,
        **adapter.not_loaded,
    }
    folder = Path(base)
    if folder.is_dir():
        _check_parts(folder, given)
        encoders = _encoders(folder, index_of(base), types, given)
        variant = variant_of(folder, index_of(base))
        return DiffusionPipeline.from_pretrained(base, variant=variant, **encoders, **given)
    try:
        return DiffusionPipeline.from_pretrained(base, **given)
    except (OSError, ValueError) as error:
        if "no file named" not in str(error):
            raise
        return DiffusionPipeline.from_pretrained(base, variant="fp16", **given)


def _check_parts(folder: Path, given: Collection[str]) -> None:
    """Raise ValueError for a component without a config or without weights, but of those that are given."""
    for name, kind in index_of(str(folder)).items():
        made = None if name in given else _module_class(kind)
        if made is None:
            continue
        files = [path.name for path in (folder / name).glob("*")]
        kinds = (
            ("model", "pytorch_model") if issubclass(made, PreTrainedModel) else ("diffusion_pytorch_model",)
        )
        if not any(match[1] in kinds for match in map(_WEIGHTS.fullmatch, files) if match is not None):
            raise ValueError(
                f"its {name} has no weights; expected {_weights_name(made)} in the folder {name}"
            )
        if CONFIG not in files:
            raise ValueError(f"its {name} has no {CONFIG}; expected it in the folder {name}")


def _module_class(kind: Any) -> Any:
    """Return the class of a component with weights by its entry in a model's index, None for any other component."""
    library = {"diffusers": diffusers, "transformers": transformers}.get(
        kind[0] if isinstance(kind, list) else ""
    )
    made = None if library is None else getattr(library, kind[1], None)
    return made if isinstance(made, type) and issubclass(made, nn.Module) else None


def _weights_name(made: type[nn.Module]) -> str:
    return "model.safetensors" if issubclass(made, PreTrainedModel) else "diffusion_pytorch_model.safetensors"


def _encoders(
    folder: Path, index: Mapping[str, Any], types: Mapping[str, torch.dtype], given: Collection[str]
) -> dict[str, nn.Module]:
    """Load the components of transformers that are not given.

    Raises ValueError for a weight that no file has, which would be drawn at random.
    """
    found = {}
    for name, kind in index.items():
        made = None if name in given else _module_class(kind)
        if made is None or not issubclass(made, PreTrainedModel):
            continue
        dtype = types.get(name, types["default"])
        model, info = made.from_pretrained(
            folder / name, variant=variant_of(folder, {name: kind}), dtype=dtype, output_loading_info=True
        )
        if missing := sorted(info["missing_keys"]):
            raise ValueError(f"its {name} has no {missing[0]}")
        found[name] = model
    return found


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
    with _explained(_unloadable(base, adapter)):
        with _configs_in(base) as place:
            index = index_of(place)
            names = [name for name, kind in index.items() if isinstance(kind, list)]
            components = _empty(place, [name for name in names if name not in adapter.not_loaded])
        absent: dict[str, Any] = {name: None for name in adapter.optional if name not in components}
        kind = getattr(diffusers, adapter.pipeline_name)
        pipeline = kind(**{**absent, **components, **adapter.not_loaded})
        _check_parts_named(pipeline, adapter)
        return adapter(pipeline)


def _empty(base: str, names: Iterable[str]) -> dict[str, Any]:
    """Return components without their weights. Raises ModelError."""
    names = list(names)
    if not names:
        return {}
    with _explained(f"{base}: its configuration cannot be read"), _configs_in(base) as place:
        index = index_of(place)
        return {
            name: None if index[name][0] is None else without_weights(place, name, torch.device("meta"))
            for name in names
        }


@contextmanager
def _configs_in(base: str) -> Iterator[str]:
    """Yield where the configs of a model lie as in a diffusers folder: for a single file, for as long as it lasts."""
    if (held := transformer_file_at(base)) is not None:
        yield held.home
    elif Path(base).is_file():
        with single_file.config_folder(Path(base)) as folder:
            yield str(folder)
    else:
        yield base


def _absent(index: Mapping[str, Any], adapter: type[Family]) -> dict[str, None]:
    """Return the components that a model with this index does without, as arguments for the pipeline."""
    return {name: None for name in adapter.optional if (index.get(name) or [None])[0] is None}
