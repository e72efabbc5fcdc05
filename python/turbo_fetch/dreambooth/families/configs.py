"""What a diffusers folder or hub id says of a model in its small files, and its components without their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from turbo_fetch.dreambooth.families.hub import first_line, hub_file
from turbo_fetch.dreambooth.families.single_file import SUFFIXES
from turbo_fetch.dreambooth.run_folder import MODEL_INDEX
from turbo_fetch.errors import ModelError


def index_of(base: str) -> Mapping[str, Any]:
    """Return the `model_index.json` of a diffusers folder or hub id. Raises ModelError."""
    path = Path(base)
    if path.is_dir() and not (path / MODEL_INDEX).is_file():
        files = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        hint = f", or one of its files: {', '.join(files[:8])}" if files else ""
        raise ModelError(f"{base}: a folder without {MODEL_INDEX}; expected one that diffusers saved{hint}")
    return json_of(base, MODEL_INDEX)


def json_of(base: str, name: str) -> Mapping[str, Any]:
    """Return a file of a diffusers folder or hub id. Raises ModelError."""
    path = Path(base)
    file = path / name if path.is_dir() else hub_file(base, name)
    try:
        loaded: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{base}: {name} cannot be read: {first_line(error)}") from error
    if not isinstance(loaded, dict):
        raise ModelError(f"{base}: {name} is a {type(loaded).__name__}; expected an object")
    return loaded


def without_weights(
    base: str, name: str, place: AbstractContextManager[Any] | torch.device, **settings: Any
) -> Any:
    """Return a component of a diffusers folder or hub id, its parameters as `place` has them; raises as diffusers.

    `settings` go before those of its config.
    """
    library, kind = index_of(base)[name]
    made: Any = getattr(import_module(library), kind)
    if not issubclass(made, nn.Module):
        return made.from_pretrained(base, subfolder=name)
    with place:
        if library == "diffusers":
            return made.from_config({**made.load_config(base, subfolder=name), **settings})
        return made(made.config_class.from_pretrained(base, subfolder=name, **settings))
