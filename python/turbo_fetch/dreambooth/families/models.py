"""A model by its name, loaded, checked and hashed, be it a diffusers folder, a hub id, or a checkpoint of a run.

A checkpoint holds what was trained; `train.json`, which lies beside its folder, says onto what and how.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import nn

from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.families.family import Family
from turbo_fetch.dreambooth.families.precision import convert
from turbo_fetch.dreambooth.families.single_file import contents_of
from turbo_fetch.dreambooth.families.trainable import Trainable, configure_trainable, merge_tokens
from turbo_fetch.dreambooth.model_files import check_on_hub
from turbo_fetch.dreambooth.run_folder import (
    MODEL_INDEX,
    RECORD,
    is_checkpoint,
    lora_in,
    read_checkpoint,
    training_of,
)
from turbo_fetch.errors import ModelError

_PARTS: Final = "parts."
"""Under which the trained module has its parameters."""
_WEIGHT_FILES: Final = ("*.safetensors", "*.bin", "*.ckpt", "*.json", "*.txt")


def load_model(model: str, dtype: torch.dtype = torch.float32) -> Family:
    """Load a model on the CPU. Raises ModelError, OutputError for a damaged checkpoint."""
    if not is_checkpoint(model):
        return families.load(model, dtype)
    restored = restore(Path(model))
    for name, module in restored.modules():
        convert(module, dtype if name != "vae" or not restored.fp32_vae else torch.float32)
    return restored


def check_model(model: str) -> None:
    """Raise ModelError if there is no such model, or it is of no known family, without loading its weights."""
    family_of(model)


def check_named(name: str, key: str, kind: Literal["model", "lora", "embedding"]) -> None:
    """Raise ModelError, naming the spec's `key`, if there is no such model, LoRA or word, or it is no whole file."""
    path = Path(name)
    file = lora_in(path) or path
    try:
        if kind == "model":
            check_model(name)
        elif file.suffix == ".safetensors" and file.is_file():
            contents_of(file)
        elif kind == "lora" and not path.exists() and not path.suffix and name.count("/") == 1:
            check_on_hub(name)
            return
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error
    if kind != "model" and not path.exists():
        raise ModelError(f"{key} = {name!r}: no such file or folder")


def family_of(model: str) -> type[Family]:
    """Return the family of a model, or of the base of a checkpoint. Raises ModelError."""
    return families.family_of(base_of(model))


def base_of(model: str) -> str:
    """Return the base of a checkpoint, and of any other model itself. Raises ModelError."""
    return training_of(Path(model)).base if is_checkpoint(model) else model


def set_dtype(pipeline: Any, dtype: torch.dtype) -> None:
    """Have the weights of a pipeline as `dtype`."""
    verbosity = diffusers_logging.get_verbosity()
    # It warns of modules that must stay fp32, whether there are any or not.
    diffusers_logging.set_verbosity_error()
    try:
        pipeline.to(dtype=dtype)
    finally:
        diffusers_logging.set_verbosity(verbosity)


def restore(path: Path) -> Family:
    """Return the model as it was at a checkpoint, ready to make images, its LoRA merged into the weights.

    With a running mean, the mean. Raises ModelError, OutputError.
    """
    train = training_of(path)
    family = families.load(train.base)
    trainable = configure_trainable(family, train)
    _take(trainable, read_checkpoint(path), path)
    merge_tokens(family, trainable)
    for _, module in family.modules():
        module.requires_grad_(False).eval()
    if train.trains("lora"):
        family.merge_lora()
    return family


@torch.no_grad()
def _take(trainable: Trainable, saved: dict[str, Any], path: Path) -> None:
    weights = dict(trainable.named())
    values = {name.removeprefix(_PARTS): value for name, value in saved["state_dict"].items()}
    if "ema" in saved:
        values = dict(zip(weights, saved["ema"]["means"], strict=False))
    if weights.keys() != values.keys():
        odd = sorted(weights.keys() ^ values.keys())
        raise ModelError(
            f"{path}: does not fit the base of its {RECORD}: {len(odd)} weights are in only one of the two, such as "
            f"{odd[0]}"
        )
    for name, weight in weights.items():
        weight.copy_(values[name])


def model_hash(model: str) -> str:
    """Return the hash of a model at a path, or of a hub id that is in the local cache, as 64 hex digits."""
    return weights_there(model) or hashlib.sha256(f"{model}@unknown".encode()).hexdigest()


def weights_there(model: str) -> str | None:
    """Return the hash of a model; None if it is neither a path nor in the local cache of the hub."""
    path = Path(model)
    index = path / MODEL_INDEX
    if path.is_dir():
        # Beside a pipeline's components there may be checkpoints, logs and other forms of the same weights.
        folders = [path / name for name in _components(index)] if index.is_file() else [path]
        parts = (file for folder in folders for part in _WEIGHT_FILES for file in folder.glob(part))
        files = sorted({*parts, *(file for file in [index] if file.is_file())})
        listing = {file.relative_to(path).as_posix(): file_hash(file) for file in files}
        return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
    if path.is_file():
        held = families.transformer_file_at(model)
        if held is None:
            return file_hash(path)
        return hashlib.sha256(f"{file_hash(path)} {model_hash(held.home)}".encode()).hexdigest()
    # A pipeline has the one, an encoder the other: …/snapshots/<commit>/model_index.json
    try:
        found = [try_to_load_from_cache(model, name) for name in (MODEL_INDEX, "config.json")]
    except HFValidationError:
        # Neither a path nor a hub id: for whoever loads it to say.
        return None
    commit = next((Path(cached).parent.name for cached in found if isinstance(cached, str)), None)
    return None if commit is None else hashlib.sha256(f"{model}@{commit}".encode()).hexdigest()


def weights_of(model: str, hash_of: Callable[[str], str] = model_hash) -> str:
    """Return a hash of all weights of a model, as `model_hash` does; that of a checkpoint has its base's in it.

    Who asks for many that share a base gives a `hash_of` that remembers.
    """
    if not is_checkpoint(model):
        return hash_of(model)
    parts = f"{file_hash(Path(model))} {hash_of(training_of(Path(model)).base)}"
    return hashlib.sha256(parts.encode()).hexdigest()


def module_hash(module: nn.Module) -> str:
    """Return the SHA-256 over names, types and values of all weights of a module."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def _components(index: Path) -> list[str]:
    try:
        content = json.loads(index.read_bytes())
    except ValueError:
        return []
    return [name for name, kind in content.items() if isinstance(kind, list)]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits; one that is the same file as before is read once."""
    stat = path.stat()
    return _hash_as_of(path.absolute(), stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=512)
def _hash_as_of(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
