"""A pipeline as a diffusers folder that older readers can load too, published whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from turbo_fetch.storage.disk import sync
from turbo_fetch.storage.failures import explained

_INDEX: Final = "model_index.json"


def save_folder(pipeline: Any, folder: Path) -> None:
    """Save a diffusers pipeline, replacing what `folder` held of one; a reader never sees half of it.

    Raises OutputError when the disk is full or may not be written.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with explained(str(folder)):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            pipeline.save_pretrained(temporary)
            mode = (temporary / _INDEX).stat().st_mode
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


def _write_json(path: Path, content: dict[str, int]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _move_into(source: Path, folder: Path) -> None:
    """Move the parts of a pipeline into the folder, `model_index.json` last, beside whatever else is there."""
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / _INDEX
    index.unlink(missing_ok=True)
    for part in sorted(source.iterdir(), key=lambda path: path.name == index.name):
        target = folder / part.name
        if target.is_dir():
            shutil.rmtree(target)
        part.replace(target)
