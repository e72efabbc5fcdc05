"""A model as a pipeline, be it a diffusers folder, a hub id, or a checkpoint of a training run.

A checkpoint holds what learned; `train.json`, which lies beside its folder, says onto what and how.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.utils import logging as diffusers_logging
from pydantic import ValidationError

from turbo_fetch.dreambooth import families
from turbo_fetch.dreambooth.checkpoint import read_checkpoint
from turbo_fetch.dreambooth.learners import Learners, choose, fold
from turbo_fetch.dreambooth.record import RECORD
from turbo_fetch.dreambooth.weights import file_hash, model_hash
from turbo_fetch.errors import ModelError
from turbo_fetch.spec import TrainSpec

SUFFIX: Final = ".ckpt"
_PARTS: Final = "parts."
"""Under which `module.DreamBooth` has what learns."""


def load_pipeline(model: str, dtype: torch.dtype = torch.float32) -> Any:
    """Load the pipeline of a model on the CPU. Raises ModelError, OutputError for a damaged checkpoint."""
    if is_checkpoint(model):
        return with_dtype(restore(Path(model)), dtype)
    return families.load(model, dtype).pipeline


def check_model(model: str) -> None:
    """Raise ModelError if there is no such model, or it is of no known family, without loading its weights."""
    families.family_of(training_of(Path(model)).base if is_checkpoint(model) else model)


def with_dtype(pipeline: Any, dtype: torch.dtype) -> Any:
    """Return the pipeline with its weights as `dtype`."""
    verbosity = diffusers_logging.get_verbosity()
    # It warns of modules that must stay fp32, whether there are any or not.
    diffusers_logging.set_verbosity_error()
    try:
        return pipeline.to(dtype=dtype)
    finally:
        diffusers_logging.set_verbosity(verbosity)


def weights_of(model: str, hash_of: Callable[[str], str] = model_hash) -> str:
    """Return a hash of all weights of a model, as `model_hash` does; that of a checkpoint has its base's in it.

    Who asks for many that share a base gives a `hash_of` that remembers.
    """
    if not is_checkpoint(model):
        return hash_of(model)
    parts = f"{file_hash(Path(model))} {hash_of(training_of(Path(model)).base)}"
    return hashlib.sha256(parts.encode()).hexdigest()


def is_checkpoint(model: str) -> bool:
    """Return whether a model is a checkpoint of a training run, by its name."""
    return model.endswith(SUFFIX)


def training_of(checkpoint: Path) -> TrainSpec:
    """Return the `[train]` that made a checkpoint, as far as weights depend on it. Raises ModelError."""
    path = checkpoint.parent.parent / RECORD
    try:
        essentials = json.loads(path.read_text(encoding="utf-8"))["essentials"]["train"]
        # What the record leaves out has no influence on the weights.
        return TrainSpec.model_validate({"subject": ".", "steps": 2**31, **essentials})
    except FileNotFoundError:
        if not checkpoint.is_file():
            raise ModelError(f"{checkpoint}: no such checkpoint") from None
        raise ModelError(
            f"{checkpoint}: no {RECORD} in {path.parent}, which says what it was trained from; "
            "expected a checkpoint in the output of [train]"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ModelError(
            f"{checkpoint}: its record {path} cannot be read: {type(error).__name__}: {error}"
        ) from error


def restore(path: Path) -> Any:
    """Return the pipeline as it was at a checkpoint, ready to make pictures, its LoRA merged into the weights.

    With a running mean, the mean. Raises ModelError, OutputError.
    """
    train = training_of(path)
    family = families.load(train.base)
    learners = choose(family, train)
    saved = read_checkpoint(path)
    _take(learners, saved, path)
    fold(family, learners)
    for _, module in family.modules():
        module.requires_grad_(False).eval()
    if train.trains("lora"):
        family.pipeline.fuse_lora()
        family.pipeline.unload_lora_weights()
    return family.pipeline


@torch.no_grad()
def _take(learners: Learners, saved: dict[str, Any], path: Path) -> None:
    weights = dict(learners.named())
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
