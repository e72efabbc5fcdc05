"""Small files of a model, in a diffusers folder or on the Hugging Face Hub; no library of models is imported."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from turbo_fetch.dreambooth.run_folder import MODEL_INDEX
from turbo_fetch.errors import ModelError

WEIGHTS_SUFFIXES: Final = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Of files that may hold a whole model."""
_ANSWER_S: Final = 10.0


def index_of(base: str) -> Mapping[str, Any]:
    """Return the `model_index.json` of a diffusers folder or hub id. Raises ModelError."""
    path = Path(base)
    if path.is_dir() and not (path / MODEL_INDEX).is_file():
        files = sorted(file.name for file in path.iterdir() if file.suffix in WEIGHTS_SUFFIXES)
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


def hub_file(model: str, name: str) -> Path:
    """Return a file of a hub id, fetched unless the local cache has it as it is on the hub. Raises ModelError."""
    with _told_of_the_hub(model, f"model with a {name}"):
        # Most models are folders, and the hub's library takes half a second to import.
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

        if not isinstance(try_to_load_from_cache(model, name), str):
            # Else a hub that cannot be reached would be asked for 24 seconds.
            with _asked_once(model):
                get_hf_file_metadata(hf_hub_url(model, name), timeout=_ANSWER_S)
        return Path(hf_hub_download(model, name))


def check_on_hub(model: str) -> None:
    """Raise ModelError for a hub id that neither the local cache has nor the hub, whatever its files are called."""
    with _told_of_the_hub(model, "model"):
        from huggingface_hub import HfApi, constants
        from huggingface_hub.file_download import repo_folder_name

        if Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=model, repo_type="model")).is_dir():
            return
        with _asked_once(model):
            HfApi().model_info(model, timeout=_ANSWER_S)


@contextmanager
def _told_of_the_hub(model: str, wanted: str) -> Iterator[None]:
    """Say in a sentence, as ModelError, what huggingface_hub raises."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except HFValidationError:
        raise ModelError(f"{model}: no such folder, and no hub id either; expected one of the two") from None
    except GatedRepoError:
        raise ModelError(
            f"{model}: gated; accept its terms on the hub and log in with `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise _unreachable(model, first_line(error)) from error
        raise ModelError(f"{model}: no such folder, and the hub has no such {wanted}") from None
    except HfHubHTTPError as error:
        raise _unreachable(model, first_line(error)) from error
    except OSError as error:
        raise ModelError(f"{model}: no {wanted} can be had from the hub: {first_line(error)}") from error


@contextmanager
def _asked_once(model: str) -> Iterator[None]:
    """Say as ModelError that the hub does not answer."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise _unreachable(model, "HF_HUB_OFFLINE is set")
    try:
        yield
    except HfHubHTTPError:
        raise
    except Exception as error:
        # Of the library that sends requests, which is not the same in all versions of huggingface_hub.
        if type(error).__module__.partition(".")[0] not in {"httpx", "httpx2"}:
            raise
        raise _unreachable(model, first_line(error)) from error


def _unreachable(model: str, reason: str) -> ModelError:
    return ModelError(
        f"{model}: no such folder, not in the local cache, and the hub cannot be reached: {reason}"
    )


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
