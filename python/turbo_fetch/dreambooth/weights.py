"""What the weights of a model are, as a hash that is the same wherever they lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

_PARTS = ("*.safetensors", "*.bin", "*.ckpt", "*.json", "*.txt")


def model_hash(model: str) -> str:
    """Return the hash of a model at a path, or of a hub id that is in the local cache, as 64 hex digits."""
    path = Path(model)
    index = path / "model_index.json"
    if path.is_dir():
        # Beside a pipeline's components there may be pictures, logs and other forms of the same weights.
        found = (file for part in _PARTS for file in path.glob(f"*/{part}" if index.is_file() else part))
        files = sorted({*found, *(file for file in [index] if file.is_file())})
        listing = {file.relative_to(path).as_posix(): file_hash(file) for file in files}
        return hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()
    if path.is_file():
        return file_hash(path)
    cached = try_to_load_from_cache(model, "model_index.json")
    # …/snapshots/<commit>/model_index.json
    commit = Path(cached).parent.name if isinstance(cached, str) else "unknown"
    return hashlib.sha256(f"{model}@{commit}".encode()).hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
