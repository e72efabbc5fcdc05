"""Which model a stage works with: the one it names, or what the spec trained."""

from __future__ import annotations

from pathlib import Path

from turbo_fetch.dreambooth.export.lora import DIFFUSERS_FILE
from turbo_fetch.errors import ModelError, SpecError
from turbo_fetch.spec import Spec


def trained_model(spec: Spec, named: str | None, lora: str | None, key: str) -> tuple[str, str | None]:
    """Return a model's path or hub id and its LoRA, if any; `key` is the spec's key that names a model.

    Raises SpecError if the spec neither names nor trains one, ModelError if it has not trained it yet.
    """
    if named is not None:
        return named, lora
    if spec.train is None:
        raise SpecError(f"{key} is missing, and the spec has no [train] whose model could be meant")
    folder = Path(spec.train.output)
    if (folder / "model_index.json").is_file():
        return str(folder), lora
    if (folder / DIFFUSERS_FILE).is_file():
        return spec.train.base, lora or str(folder / DIFFUSERS_FILE)
    raise ModelError(f"{folder}: holds no trained model yet; expected train.output after the stage [train]")
