"""What the weights of a model are, as a hash that is the same wherever they lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

_PARTS = ("*.safetensors", "*.bin", "*.ckpt", "*.json", "*.txt")


def model_hash(model: str) -> str:
    """Return the hash of a model at a path, or of a hub id that is in the local cache, as 64 hex digits."""
    path = Path(model)
    index = path / "model_index.json"
    if path.is_dir():
        # Beside a pipeline's components there may be checkpoints, logs and other forms of the same weights.
        folders = [path / name for name in _components(index)] if index.is_file() else [path]
        parts = (file for folder in folders for part in _PARTS for file in folder.glob(part))
        files = sorted({*parts, *(file for file in [index] if file.is_file())})
        listing = {file.relative_to(path).as_posix(): file_hash(file) for file in files}
        return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
    if path.is_file():
        return file_hash(path)
    # A pipeline has the one, an encoder the other: …/snapshots/<commit>/model_index.json
    try:
        found = [try_to_load_from_cache(model, name) for name in ("model_index.json", "config.json")]
    except HFValidationError:
        # Neither a path nor a hub id: for whoever loads it to say.
        found = []
    commit = next((Path(cached).parent.name for cached in found if isinstance(cached, str)), "unknown")
    return hashlib.sha256(f"{model}@{commit}".encode()).hexdigest()


def _components(index: Path) -> list[str]:
    try:
        content = json.loads(index.read_bytes())
    except ValueError:
        return []
    return [name for name, kind in content.items() if isinstance(kind, list)]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
