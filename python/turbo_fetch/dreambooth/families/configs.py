"""Components of a model in a diffusers folder or on the hub without their weights, by what its small files say."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from turbo_fetch.dreambooth.model_files import index_of


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
