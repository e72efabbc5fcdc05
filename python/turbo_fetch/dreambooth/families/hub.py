"""Files of models on the Hugging Face Hub: from the local cache, fetched, or refused within seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from turbo_fetch.errors import ModelError

_ANSWER_S: Final = 10.0


def hub_file(model: str, name: str) -> Path:
    """Return a file of a hub id, fetched unless the local cache has it as it is on the hub. Raises ModelError."""
    try:
        if not isinstance(try_to_load_from_cache(model, name), str):
            _ask_once(model, name)
        return Path(hf_hub_download(model, name))
    except HFValidationError:
        raise ModelError(f"{model}: no such folder, and no hub id either; expected one of the two") from None
    except GatedRepoError:
        raise ModelError(
            f"{model}: gated; accept its terms on the hub and log in with `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise _unreachable(model, first_line(error)) from error
        raise ModelError(f"{model}: no such folder, and the hub has no such model with a {name}") from None
    except HfHubHTTPError as error:
        raise _unreachable(model, first_line(error)) from error
    except OSError as error:
        raise ModelError(f"{model}: {name} cannot be had from the hub: {first_line(error)}") from error


def _ask_once(model: str, name: str) -> None:
    """Raise as huggingface_hub does if a file is not there; it would ask a hub that it cannot reach for 24 seconds."""
    if constants.HF_HUB_OFFLINE:
        raise _unreachable(model, "HF_HUB_OFFLINE is set")
    try:
        get_hf_file_metadata(hf_hub_url(model, name), timeout=_ANSWER_S)
    except HfHubHTTPError:
        raise
    except Exception as error:
        # Of the library that sends requests, which is not the same in all versions of huggingface_hub.
        if type(error).__module__.partition(".")[0] not in {"httpx", "httpx2"}:
            raise
        raise _unreachable(model, first_line(error)) from error


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _unreachable(model: str, reason: str) -> ModelError:
    return ModelError(
        f"{model}: no such folder, not in the local cache, and the hub cannot be reached: {reason}"
    )
