"""A model on disk, published whole: a diffusers folder that older readers can load too, or one safetensors file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from turbo_fetch.dreambooth.families import Family
from turbo_fetch.dreambooth.run_folder import MODEL_INDEX
from turbo_fetch.storage.disk import sync, sync_one, unfinished
from turbo_fetch.storage.failures import explained


def save_folder(pipeline: Any, folder: Path) -> None:
    """Save a diffusers pipeline, replacing what `folder` held of one; a reader never sees half of it.

    Raises OutputError when the disk is full or may not be written.
    """
    temporary = unfinished(folder)
    with explained(str(folder)):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            pipeline.save_pretrained(temporary)
            for encoder in sorted(temporary.glob("text_encoder*")):
                add_wrapper(encoder)
            mode = (temporary / MODEL_INDEX).stat().st_mode
            for weights in temporary.rglob("*.safetensors"):
                # safetensors makes files that nobody else may read.
                weights.chmod(mode)
            for tokenizer in sorted(temporary.glob("tokenizer*")):
                add_vocabulary(tokenizer)
            sync(temporary)
            _move_into(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def add_vocabulary(folder: Path) -> None:
    """Write `vocab.json`, `merges.txt` and `added_tokens.json` beside a BPE tokenizer's `tokenizer.json`.

    transformers 5 saves only the latter, which its version 4 and other programs do not read.
    """
    source = folder / "tokenizer.json"
    if not source.is_file():
        return
    tokenizer = json.loads(source.read_text(encoding="utf-8"))
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        return
    pairs = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}
    new = {word: number for word, number in added.items() if word not in model["vocab"]}
    _write_json(folder / "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), encoding="utf-8")
    if new:
        _write_json(folder / "added_tokens.json", new)


def add_wrapper(folder: Path) -> None:
    """Name the weights of a CLIP text model with the `text_model.` that all versions of transformers read.

    Version 5.6 and later save them without, which version 4 takes for weights that are missing: it draws them anew.
    """
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names, header = list(file.keys()), file.metadata()
            if not any(name.startswith("embeddings.") for name in names):
                continue
            weights = {f"text_model.{name}": file.get_tensor(name) for name in names}
        save_file(weights, path, metadata=header)


def _write_json(path: Path, content: dict[str, int]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _move_into(source: Path, folder: Path) -> None:
    """Move the parts of a pipeline into the folder, `model_index.json` last, beside whatever else is there."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / MODEL_INDEX
    index.unlink(missing_ok=True)
    for part in sorted(source.iterdir(), key=lambda path: path.name == index.name):
        target = folder / part.name
        if target.is_dir():
            shutil.rmtree(target)
        part.replace(target)


def save_single_file(
    family: Family, path: Path, metadata: Mapping[str, str], dtype: torch.dtype | None = None
) -> None:
    """Write the model to `path` in the original layout of its family, its weights as `dtype` if given.

    ComfyUI, AUTOMATIC1111's web UI and diffusers' `from_single_file` read it. Raises ModelError for a family whose
    layout is not known, and OutputError.
    """
    weights = {name: _as_dtype(weight, dtype) for name, weight in family.original_weights().items()}
    model = {name: value for name, value in family.header().items() if name.startswith("modelspec.")}
    header = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        **model,
        **family.single_file_header(),
        **metadata,
    }
    write_safetensors(weights | family.facts.markers, path, header)


def write_safetensors(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Publish a safetensors file: written beside, synced, renamed. Raises OutputError."""
    temporary = unfinished(path)
    with explained(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(dict(weights), temporary, metadata=dict(metadata))
            # safetensors makes files that nobody else may read.
            temporary.chmod(mode)
            sync_one(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _as_dtype(weight: Tensor, dtype: torch.dtype | None) -> Tensor:
    kept = dtype is None or not weight.is_floating_point()
    return weight.detach().cpu().contiguous() if kept else weight.detach().to("cpu", dtype).contiguous()
