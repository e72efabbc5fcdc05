"""What a diffusers folder or hub id says of a model in its small files, and its components without their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
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
    try:
        file = path / name if path.is_dir() else Path(hf_hub_download(base, name))
        loaded: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
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


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _unreachable(base: str, error: Exception) -> ModelError:
    return ModelError(
        f"{base}: no such folder, not in the local cache, and the hub cannot be reached: {first_line(error)}"
    )
